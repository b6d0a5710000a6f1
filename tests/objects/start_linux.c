/* Start-up code and output for an emulated Linux process without a C library; the names are those of the board's. */
#include <stdint.h>

enum {
#ifdef __mips__
  SYSTEM_EXIT = 4001, SYSTEM_WRITE = 4004
#else
  SYSTEM_EXIT = 1, SYSTEM_WRITE = 4
#endif
};

extern void (*__init_array_start[])(void);
extern void (*__init_array_end[])(void);
int main(void);

static void system_call(intptr_t number, intptr_t first, const void* second, intptr_t third) {
#ifdef __mips__
  register intptr_t n __asm("$2") = number, a __asm("$4") = first;
  register const void* b __asm("$5") = second;
  register intptr_t c __asm("$6") = third, failed __asm("$7");
  __asm volatile("syscall" : "+r"(n), "=r"(failed) : "r"(a), "r"(b), "r"(c) : "$1", "$3", "memory");
#else
  register intptr_t n __asm("r7") = number, a __asm("r0") = first;
  register const void* b __asm("r1") = second;
  register intptr_t c __asm("r2") = third;
  __asm volatile("svc 0" : "+r"(a) : "r"(n), "r"(b), "r"(c) : "memory");
#endif
}

void board_puts(const char* text) {
  intptr_t length = 0;
  while (text[length]) ++length;
  system_call(SYSTEM_WRITE, 1, text, length);
}

void _start(void) {
  void (**constructor)(void);
  for (constructor = __init_array_start; constructor < __init_array_end; ++constructor) (*constructor)();
  system_call(SYSTEM_EXIT, main(), 0, 0);
}

void __start(void) __attribute__((alias("_start"))); /* as MIPS calls it */
