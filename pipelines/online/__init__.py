"""Online methods: a training whose rows are drawn, step by step, from the weights as they stand.

    python -m pipelines.online CONFIG.json          every rank of one run; the only program that imports both floors

What a step does is a list of operations (`config`); each step's rollouts are a dataset that stays (`rollouts`).
"""
