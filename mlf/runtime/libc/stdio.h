/* Stands in where the compiler comes without a C library. Only what needs no FILE. */
#ifndef MLF_LIBC_STDIO_H_
#define MLF_LIBC_STDIO_H_

#include <stdarg.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EOF (-1)

int printf(const char*, ...);
int putchar(int);
int puts(const char*);
int snprintf(char*, size_t, const char*, ...);
int sprintf(char*, const char*, ...);
int vprintf(const char*, va_list);
int vsnprintf(char*, size_t, const char*, va_list);

#ifdef __cplusplus
}
#endif

#endif
