#include "model_cpp.h"

extern int32_t second_inline(), second_next(), second_life();
extern const Shape* make_shape(int32_t kind);
extern void second_total();

static int32_t started;
Start::Start(int32_t n) { started += n * SEED; }
static Start start(10);

extern "C" int32_t run(int32_t what) {
  int32_t number = 0;
  switch (what) {
    case 0: return inline_function(0) + second_inline();
    case 1: return Counter<int32_t>::next() + second_next();
    case 2: {
      Value value(&number);
    }
      return number + second_life();
    case 3: return make_shape(0)->area() * 100 + make_shape(1)->area();
    case 4: second_total(); return Shared::total;
    case 5: return started;
    default: return -1;
  }
}
