/*
 * Between the parts of the board support. Operations and their arguments: "Semihosting for AArch32 and AArch64", release
 * 2.0; RISC-V uses the same ones.
 */
#ifndef MLF_SEMIHOSTING_H_
#define MLF_SEMIHOSTING_H_

#include <stdint.h>

/* Arguments is a block of words, or the text of the one operation that takes text. */
intptr_t semihosting_call(intptr_t operation, const void* arguments);

/* Says what happened where and ends the program with BOARD_FAULT_STATUS. */
__attribute__((noreturn)) void board_fault(uintptr_t cause, uintptr_t address);

/* Where execution goes in C, with a stack and with floating point switched on. */
__attribute__((noreturn)) void board_start(void);

#endif
