"""What engines of other programs share that run in our own worker processes, under `pipelines/backends`: a model of
ours in a form that they read, one client over all of them, and the comparison before an answer is believed.
"""
