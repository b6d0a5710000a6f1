/* The files of a board where there is an operating system. */
#include <stdio.h>
#include <stdlib.h>

#include "board.h"

int board_read_file(const char* name, void* data, size_t size_bytes) {
  FILE* file = fopen(name, "rb");
  size_t done = file ? fread(data, 1, size_bytes, file) : 0;
  if (file) {
    fclose(file);
  }
  return file && done == size_bytes ? 0 : -1;
}

int board_write_file(const char* name, const void* data, size_t size_bytes) {
  FILE* file = fopen(name, "wb");
  size_t done = file ? fwrite(data, 1, size_bytes, file) : 0;
  return file && fclose(file) == 0 && done == size_bytes ? 0 : -1;
}

void board_puts(const char* text) {
  fputs(text, stderr);
}

void board_exit(int status) {
  exit(status);
}
