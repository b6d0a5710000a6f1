/*
 * Reset, faults and semihosting of 64-bit Arm at exception level 1. Registers: Arm Architecture Reference Manual for
 * A-profile architecture, chapter D13.
 */
#define CPACR_FPEN (3 << 20) /* floating point is off after reset, and an instruction of it would fault */

/* 32 bits of address in pages of 4 KiB, whose first table has an entry for each GiB; walks of it may be cached. */
#define TCR_32_BITS (32 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23)
#define MAIR_NORMAL 0xff
#define BLOCK (1 << 0 | 3 << 8 | 1 << 10) /* valid, shared, accessed */
#define SCTLR_MMU (1 << 0 | 1 << 2 | 1 << 12)

  .section .vectors, "ax"
  .globl _start
_start:
  adrp x0, __stack_top
  add x0, x0, :lo12:__stack_top
  mov sp, x0
  adrp x0, exceptions
  add x0, x0, :lo12:exceptions
  msr vbar_el1, x0
  mov x0, CPACR_FPEN
  msr cpacr_el1, x0

  /* Without a memory map all memory is a device's, where an access that is not aligned faults. */
  adrp x0, memory_map
  add x0, x0, :lo12:memory_map
  msr ttbr0_el1, x0
  mov x0, MAIR_NORMAL
  msr mair_el1, x0
  ldr x0, =TCR_32_BITS
  msr tcr_el1, x0
  isb
  mrs x0, sctlr_el1
  ldr x1, =SCTLR_MMU
  orr x0, x0, x1
  msr sctlr_el1, x0
  isb

  /* The ABI reserves 16 bytes before the thread-local data, for whose alignment of 16 board.ld sees. */
  adrp x0, __tls_base
  add x0, x0, :lo12:__tls_base
  sub x0, x0, 16
  msr tpidr_el0, x0
  b board_start
  .ltorg

  /* The second GiB holds the board's memory; what lies elsewhere is no memory of this program. */
  .section .rodata.memory_map, "a"
  .balign 64
memory_map:
  .quad 0, 0x40000000 + BLOCK, 0, 0

  /* Sixteen entries of 128 bytes: no interrupt is ever switched on, so that every one tells of something unexpected. */
  .section .text.exceptions, "ax"
  .balign 2048
exceptions:
  .rept 16
  .balign 128
  b fault
  .endr

fault:
  adrp x0, __fault_stack_top /* the old stack may be the reason of the fault */
  add x0, x0, :lo12:__fault_stack_top
  mov sp, x0
  mrs x0, esr_el1
  mrs x1, elr_el1
  b board_fault

  .section .text.semihosting_call, "ax"
  .globl semihosting_call
  .type semihosting_call, %function
semihosting_call:
  hlt 0xf000
  ret
  .size semihosting_call, . - semihosting_call
