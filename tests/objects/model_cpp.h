/* What both C++ objects of a model define: all of it lies in COMDAT groups of the same names in every model. */
#pragma once
#include <stdint.h>

__attribute__((noinline)) inline int32_t inline_function(int32_t x) {
  static int32_t calls;
  return x + SEED * 10 + ++calls;
}

template <typename T>
struct Counter {
  static T value;
  __attribute__((noinline)) static T next() { return value += SEED; }
};
template <typename T>
T Counter<T>::value = T(SEED * 100);

/* No virtual bases, so that the complete and the base constructor are one: groups with C5 and D5 signatures. */
struct Value {
  int32_t* place;
  __attribute__((noinline)) explicit Value(int32_t* where) : place(where) { *place += SEED; }
  __attribute__((noinline)) ~Value() { *place += SEED * 10; }
};

struct Shape {
  virtual int32_t area() const { return SEED; }
};
struct Square : Shape {
  int32_t area() const override { return SEED * 5; }
};

struct Shared {
  inline static int32_t total = SEED;
};

struct Start {
  explicit Start(int32_t n);
};
