"""Pure: functions and map descriptors in, the instructions that the kernel takes out."""
