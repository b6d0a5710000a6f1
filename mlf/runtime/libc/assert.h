/* Stands in where the compiler comes without a C library. No include guard: NDEBUG may differ between two inclusions. */
#undef assert
#ifdef NDEBUG
#define assert(condition) ((void)0)
#else
#include <stdlib.h>
#define assert(condition) ((condition) ? (void)0 : abort())
#endif
