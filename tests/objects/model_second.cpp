#include "model_cpp.h"

static Start start(1);
static Shape shape;
static Square square;

int32_t second_inline() { return inline_function(0); }
int32_t second_next() { return Counter<int32_t>::next(); }
int32_t second_life() {
  int32_t number = 0;
  { Value value(&number); }
  return number;
}
const Shape* make_shape(int32_t kind) {
  const Shape* volatile made = kind ? &square : &shape;
  return made;
}
void second_total() { Shared::total += 1; }
