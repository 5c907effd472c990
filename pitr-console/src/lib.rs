//! What both commands share at the terminal: messages, exit codes, configuration, progress, times.
