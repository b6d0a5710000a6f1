/*
 * Stands in where the compiler comes without a C library. Generated code takes the integer types from here and prints
 * none of them, so that the format macros are left out.
 */
#ifndef MLF_LIBC_INTTYPES_H_
#define MLF_LIBC_INTTYPES_H_

#include <stdint.h>

#endif
