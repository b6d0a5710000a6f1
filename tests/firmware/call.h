/* A model of a library with memory to run it in, and what it gave while nothing disturbed it. `case.h`, which the test
   writes, has the arrays. */
#ifndef CALL_H_
#define CALL_H_

#include <string.h>

#include "case.h"

enum { MOST = 8, LENT = 64, UNWRITTEN = 0xa5 };

struct call {
  const struct mlf_model* model;
  void* const* inputs;
  uint8_t* memory; /* outputs, behind them pools */
  uint8_t* expected;
  size_t output_bytes;
  void* outputs[MOST];
  void* pools[MOST];
};

void say(const char* text);

static inline uint32_t lent(uint32_t size_bytes) { return (size_bytes + LENT - 1u) / LENT * LENT; }

static inline void prepare(struct call* call) {
  uint8_t* at = call->memory;
  uint32_t i;
  for (i = 0; i < call->model->output_count; ++i) {
    call->outputs[i] = at;
    at += lent(call->model->outputs[i].size_bytes);
  }
  call->output_bytes = (size_t)(at - call->memory);
  for (i = 0; i < call->model->pool_count; ++i) {
    call->pools[i] = at;
    at += lent(call->model->pools[i].size_bytes);
  }
}

static inline int32_t run(struct call* call) {
  return call->model->run(call->inputs, call->outputs, call->pools, NULL);
}

/* Makes everything that a run must write unlike what it has to be. */
static inline void forget(struct call* call) {
  uint32_t i;
  memset(call->memory, UNWRITTEN, call->output_bytes);
  for (i = 0; i < call->model->pool_count; ++i) {
    memset(call->pools[i], UNWRITTEN, call->model->pools[i].size_bytes);
    if (call->model->pools[i].data) {
      memcpy(call->pools[i], call->model->pools[i].data, call->model->pools[i].size_bytes);
    }
  }
}

static inline int is_right(const struct call* call) {
  return memcmp(call->memory, call->expected, call->output_bytes) == 0;
}

static inline int is_untouched(const struct call* call) {
  size_t i;
  for (i = 0; i < call->output_bytes; ++i) {
    if (call->memory[i] != UNWRITTEN) return 0;
  }
  return 1;
}

static inline void say_number(const char* name, unsigned long number) {
  char text[24];
  char* digit = text + sizeof(text) - 1;
  *digit = '\0';
  *--digit = '\n';
  do *--digit = (char)('0' + number % 10u);
  while (number /= 10u);
  say(name);
  say(" ");
  say(digit);
}

/* Runs undisturbed, remembers the outputs and says them. */
static inline int32_t learn(struct call* call, const char* name) {
  static const char digits[] = "0123456789abcdef";
  char text[3] = "";
  uint32_t i, k;
  int32_t status;
  prepare(call);
  forget(call);
  status = run(call);
  memcpy(call->expected, call->memory, call->output_bytes);
  for (i = 0; i < call->model->output_count; ++i) {
    say(name);
    say(" ");
    for (k = 0; k < call->model->outputs[i].size_bytes; ++k) {
      text[0] = digits[((uint8_t*)call->outputs[i])[k] >> 4];
      text[1] = digits[((uint8_t*)call->outputs[i])[k] & 15];
      say(text);
    }
    say("\n");
  }
  return status;
}

#endif
