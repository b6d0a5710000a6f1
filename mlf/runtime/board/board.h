/*
 * What a program may ask of the emulated board it runs on. Text and files go to the machine that runs the emulator, by
 * semihosting, so that a program started without it stops at its first call.
 */
#ifndef MLF_BOARD_H_
#define MLF_BOARD_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The status with which a program ends after a fault of the processor. */
#define BOARD_FAULT_STATUS 99

void board_puts(const char* text);

/* Ends the emulator, which passes the status on. */
__attribute__((noreturn)) void board_exit(int status);

/*
 * Both return 0, or -1 when not all bytes could be moved. A name is relative to the working directory of the emulator.
 * A file to be read must be exactly size_bytes long; one that is written replaces what was there.
 */
int board_read_file(const char* name, void* data, size_t size_bytes);
int board_write_file(const char* name, const void* data, size_t size_bytes);

/*
 * The deepest the stack has been since the start, in bytes. board.ld bounds the part of the stack that is watched; a
 * program that used all of it gets its size.
 */
uint32_t board_stack_used(void);

#ifdef __cplusplus
}
#endif

#endif
