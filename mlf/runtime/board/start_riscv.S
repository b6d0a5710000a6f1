/*
 * Reset, faults and semihosting of RISC-V in machine mode, 32 or 64 bits. Registers: The RISC-V Instruction Set Manual,
 * volume II.
 */
#define MSTATUS_FS_INITIAL 0x2000 /* floating point is off after reset, and an instruction of it would fault */

/* The emulated board starts at the first byte of its memory, whatever the entry point of the file says. */
  .option arch, +zicsr /* the registers below are no part of the base instructions since 2019 */
  .option norelax /* gp cannot be loaded by its own means, and not every linker knows how to relax */
  .section .vectors, "ax"
  .globl _start
_start:
  la gp, __global_pointer$
  la sp, __stack_top
  la tp, __tls_base
  la t0, fault
  csrw mtvec, t0
#ifdef __riscv_flen
  li t0, MSTATUS_FS_INITIAL
  csrs mstatus, t0
#endif
  tail board_start

/* Not beside the start, where a stack that overflows memory ends up. */
  .section .text.fault, "ax"
  .balign 4 /* the two low bits of mtvec are flags */
fault:
  la sp, __fault_stack_top /* the old stack may be the reason of the fault */
  csrr a0, mcause
  csrr a1, mepc
  tail board_fault

  .section .text.semihosting_call, "ax"
  .globl semihosting_call
  .type semihosting_call, @function
  .option push
  .option norvc /* the host looks for exactly these three words, which must not cross a page */
  .balign 16
semihosting_call:
  slli zero, zero, 0x1f
  ebreak
  srai zero, zero, 7
  ret
  .option pop
  .size semihosting_call, . - semihosting_call
