"""What a command line says: parameters, files of flags, settings of training, and what was meant by a wrong flag."""
