/* The memory that models of a library run in, and the guard in front of it: internal, not for applications. */
#ifndef MLF_ARENA_H_
#define MLF_ARENA_H_

#include <stddef.h>
#include <stdint.h>

/* What an arena remembers between runs; it starts as zeros. `used_bytes` is where the allocator goes on. */
struct mlf_arena {
  volatile uint32_t is_busy;
  uint32_t has_failed;
  size_t used_bytes;
};

/* Take the arena, unless another run has it. A run in an interrupt must not wait for the one that it interrupted, so
   nobody waits. */
static inline int mlf_arena_take(struct mlf_arena* arena);

/* Give the arena back. */
static inline void mlf_arena_give(struct mlf_arena* arena);

#if defined(__GCC_HAVE_SYNC_COMPARE_AND_SWAP_4)

static inline int mlf_arena_take(struct mlf_arena* arena) {
  return __atomic_exchange_n(&arena->is_busy, 1u, __ATOMIC_ACQUIRE) == 0u;
}

static inline void mlf_arena_give(struct mlf_arena* arena) {
  __atomic_store_n(&arena->is_busy, 0u, __ATOMIC_RELEASE);
}

#else

/* A core without atomic instructions is alone, so the flag is safe while no interrupt can come. */
static inline int mlf_arena_take(struct mlf_arena* arena) {
  int is_mine;
#if defined(__arm__)
  uint32_t mask;
  __asm__ volatile("mrs %0, primask\n\tcpsid i" : "=r"(mask) : : "memory");
  is_mine = !arena->is_busy;
  arena->is_busy = 1u;
  __asm__ volatile("msr primask, %0" : : "r"(mask) : "memory");
#elif defined(__riscv)
  uintptr_t status;
  /* csrrci status, mstatus, 8; by its parts, because assemblers know it only where -march has zicsr. */
  __asm__ volatile(".insn i 0x73, 7, %0, x8, 0x300" : "=r"(status) : : "memory");
  is_mine = !arena->is_busy;
  arena->is_busy = 1u;
  __asm__ volatile(".insn i 0x73, 2, x0, %0, 0x300" : : "r"(status & 8u) : "memory"); /* csrs mstatus */
#else
#error "this processor has no atomic instructions that the compiler knows of, and mlf does not know how to stop its interrupts"
#endif
  return is_mine;
}

static inline void mlf_arena_give(struct mlf_arena* arena) {
  __asm__ volatile("" : : : "memory");
  arena->is_busy = 0u;
}

#endif

#endif
