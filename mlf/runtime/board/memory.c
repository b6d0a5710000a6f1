/*
 * The four functions that compilers call by themselves, and the names under which the Arm ABI knows them, so that a
 * program needs no C library. All are weak: a library's own, faster ones come first.
 */
#include <stddef.h>
#include <stdint.h>

/* Without this the compiler would see the loop of memcpy as a memcpy and make it call itself. */
#define KEEP_LOOP() __asm volatile("" ::: "memory")

#define WEAK __attribute__((weak))

WEAK void* memcpy(void* restrict to, const void* restrict from, size_t size_bytes);
WEAK void* memmove(void* to, const void* from, size_t size_bytes);
WEAK void* memset(void* to, int value, size_t size_bytes);
WEAK int memcmp(const void* left, const void* right, size_t size_bytes);

static int is_word_aligned(const void* left, const void* right) {
  return (((uintptr_t)left | (uintptr_t)right) & (sizeof(uint32_t) - 1)) == 0;
}

/* Copying in words may not change what other types the memory is used as. */
typedef uint32_t __attribute__((may_alias)) word;

static void copy_forwards(void* to, const void* from, size_t size_bytes) {
  unsigned char* byte_to = to;
  const unsigned char* byte_from = from;

  if (is_word_aligned(to, from)) {
    for (; size_bytes >= sizeof(word); size_bytes -= sizeof(word)) {
      *(word*)byte_to = *(const word*)byte_from;
      byte_to += sizeof(word);
      byte_from += sizeof(word);
      KEEP_LOOP();
    }
  }
  for (; size_bytes > 0; --size_bytes) {
    *byte_to++ = *byte_from++;
    KEEP_LOOP();
  }
}

void* memcpy(void* restrict to, const void* restrict from, size_t size_bytes) {
  copy_forwards(to, from, size_bytes);
  return to;
}

void* memmove(void* to, const void* from, size_t size_bytes) {
  unsigned char* byte_to = to;
  const unsigned char* byte_from = from;

  if ((uintptr_t)to <= (uintptr_t)from) {
    copy_forwards(to, from, size_bytes);
    return to;
  }
  while (size_bytes > 0) {
    --size_bytes;
    byte_to[size_bytes] = byte_from[size_bytes];
    KEEP_LOOP();
  }
  return to;
}

void* memset(void* to, int value, size_t size_bytes) {
  unsigned char* byte_to = to;

  for (; size_bytes > 0; --size_bytes) {
    *byte_to++ = (unsigned char)value;
    KEEP_LOOP();
  }
  return to;
}

int memcmp(const void* left, const void* right, size_t size_bytes) {
  const unsigned char* byte_left = left;
  const unsigned char* byte_right = right;

  for (; size_bytes > 0; --size_bytes, ++byte_left, ++byte_right) {
    if (*byte_left != *byte_right) {
      return *byte_left - *byte_right;
    }
  }
  return 0;
}

#ifdef __arm__
/* "Run-time ABI for the Arm Architecture", section 5.3.4: the digit is the alignment; memset takes its value last. */
#define ALIASES(name, arguments) \
  WEAK void name##4 arguments __attribute__((alias(#name))); \
  WEAK void name##8 arguments __attribute__((alias(#name)));

WEAK void __aeabi_memcpy(void* restrict to, const void* restrict from, size_t size_bytes);
WEAK void __aeabi_memmove(void* to, const void* from, size_t size_bytes);
WEAK void __aeabi_memset(void* to, size_t size_bytes, int value);
WEAK void __aeabi_memclr(void* to, size_t size_bytes);

void __aeabi_memcpy(void* restrict to, const void* restrict from, size_t size_bytes) { memcpy(to, from, size_bytes); }
void __aeabi_memmove(void* to, const void* from, size_t size_bytes) { memmove(to, from, size_bytes); }
void __aeabi_memset(void* to, size_t size_bytes, int value) { memset(to, value, size_bytes); }
void __aeabi_memclr(void* to, size_t size_bytes) { memset(to, 0, size_bytes); }

ALIASES(__aeabi_memcpy, (void* restrict to, const void* restrict from, size_t size_bytes))
ALIASES(__aeabi_memmove, (void* to, const void* from, size_t size_bytes))
ALIASES(__aeabi_memset, (void* to, size_t size_bytes, int value))
ALIASES(__aeabi_memclr, (void* to, size_t size_bytes))
#endif
