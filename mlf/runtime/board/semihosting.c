#include "semihosting.h"

#include "board.h"

enum {
  SYS_OPEN = 0x01,
  SYS_CLOSE = 0x02,
  SYS_WRITE0 = 0x04,
  SYS_WRITE = 0x05,
  SYS_READ = 0x06,
  SYS_FLEN = 0x0c,
  SYS_EXIT_EXTENDED = 0x20 /* the plain exit cannot carry a status on 32-bit machines */
};

enum { OPEN_READ_BINARY = 1, OPEN_WRITE_BINARY = 5 };

#define STOPPED_APPLICATION_EXIT 0x20026

void board_puts(const char* text) { semihosting_call(SYS_WRITE0, text); }

void board_exit(int status) {
  intptr_t arguments[2];

  arguments[0] = STOPPED_APPLICATION_EXIT;
  arguments[1] = status;
  for (;;) {
    semihosting_call(SYS_EXIT_EXTENDED, arguments);
  }
}

static intptr_t open_file(const char* name, intptr_t mode) {
  const volatile char* end = name; /* volatile, or the compiler would make the loop a call of a libc's strlen */
  intptr_t arguments[3];

  while (*end != '\0') {
    ++end;
  }
  arguments[0] = (intptr_t)name;
  arguments[1] = mode;
  arguments[2] = end - name;
  return semihosting_call(SYS_OPEN, arguments);
}

static intptr_t file_operation(intptr_t operation, intptr_t handle) { return semihosting_call(operation, &handle); }

/* The host may move less than it was asked for; it returns what is left to do, and moving nothing is its only error. */
static int transfer(intptr_t operation, intptr_t handle, const void* data, size_t size_bytes) {
  intptr_t arguments[3];
  size_t left = size_bytes;

  while (left > 0) {
    intptr_t still_left;

    arguments[0] = handle;
    arguments[1] = (intptr_t)data + (intptr_t)(size_bytes - left);
    arguments[2] = (intptr_t)left;
    still_left = semihosting_call(operation, arguments);
    if (still_left < 0 || (size_t)still_left >= left) {
      return -1;
    }
    left = (size_t)still_left;
  }
  return 0;
}

int board_read_file(const char* name, void* data, size_t size_bytes) {
  intptr_t handle = open_file(name, OPEN_READ_BINARY);
  int status = -1;

  if (handle == -1) {
    return -1;
  }
  if (file_operation(SYS_FLEN, handle) == (intptr_t)size_bytes) {
    status = transfer(SYS_READ, handle, data, size_bytes);
  }
  file_operation(SYS_CLOSE, handle);
  return status;
}

int board_write_file(const char* name, const void* data, size_t size_bytes) {
  intptr_t handle = open_file(name, OPEN_WRITE_BINARY);
  int status;

  if (handle == -1) {
    return -1;
  }
  status = transfer(SYS_WRITE, handle, data, size_bytes);
  return file_operation(SYS_CLOSE, handle) == 0 ? status : -1;
}
