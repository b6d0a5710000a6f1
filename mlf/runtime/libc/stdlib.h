/* Stands in where the compiler comes without a C library. */
#ifndef MLF_LIBC_STDLIB_H_
#define MLF_LIBC_STDLIB_H_

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EXIT_SUCCESS 0
#define EXIT_FAILURE 1

__attribute__((noreturn)) void abort(void);
__attribute__((noreturn)) void exit(int);
int abs(int);
long labs(long);
long long llabs(long long);
void* calloc(size_t, size_t);
void free(void*);
void* malloc(size_t);
void* realloc(void*, size_t);

#ifdef __cplusplus
}
#endif

#endif
