"""The command line: parameters, files of flags, settings of training, wrong flags, and what a user sees meanwhile."""
