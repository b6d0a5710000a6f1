"""ELF relocatable objects and `ar` archives: read, merged and written without a cross binutils."""
