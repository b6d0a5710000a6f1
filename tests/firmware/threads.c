/* Two threads, each of which runs its model again and again. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "call.h"

static struct call first = {&FIRST_MODEL, first_inputs, first_memory, first_expected, 0, {0}, {0}};
static struct call second = {&SECOND_MODEL, second_inputs, second_memory, second_expected, 0, {0}, {0}};

struct worker {
  struct call* call;
  unsigned long right, busy, wrong, failed;
};

static pthread_barrier_t start;
static unsigned unfinished = 2;
static unsigned long all_busy;

void say(const char* text) { fputs(text, stdout); }

static void judge(struct worker* worker, int32_t status) {
  if (status == MLF_ERROR_ARENA_BUSY) {
    ++worker->busy;
    __atomic_fetch_add(&all_busy, 1, __ATOMIC_RELAXED);
    worker->wrong += !is_untouched(worker->call);
  } else if (status == 0) {
    worker->right += is_right(worker->call);
    worker->wrong += !is_right(worker->call);
  } else {
    ++worker->failed;
  }
}

/* Goes on until the other one has done enough too, so that they meet from the first run to the last. */
static void* work(void* argument) {
  struct worker* worker = argument;
  unsigned long turn;
  int is_finished = 0;
  pthread_barrier_wait(&start);
  for (turn = 0; __atomic_load_n(&unfinished, __ATOMIC_RELAXED) != 0; ++turn) {
    forget(worker->call);
    judge(worker, run(worker->call));
    if (worker->wrong + worker->failed != 0) {
      puts(worker->wrong ? "wrong 1" : "failed 1");
      exit(2);
    }
    if (!is_finished && worker->right >= RUNS &&
        (turn >= MOST_TURNS || __atomic_load_n(&all_busy, __ATOMIC_RELAXED) >= LEAST_BUSY)) {
      is_finished = 1;
      __atomic_fetch_sub(&unfinished, 1, __ATOMIC_RELAXED);
    }
  }
  return NULL;
}

int main(void) {
  struct worker workers[2] = {{&first, 0, 0, 0, 0}, {&second, 0, 0, 0, 0}};
  pthread_t threads[2];
  int i;
  if (learn(&first, "first") != 0 || learn(&second, "second") != 0) return 1;
  pthread_barrier_init(&start, NULL, 2);
  for (i = 0; i < 2; ++i) pthread_create(&threads[i], NULL, work, &workers[i]);
  for (i = 0; i < 2; ++i) pthread_join(threads[i], NULL);
  say_number("least", workers[0].right < workers[1].right ? workers[0].right : workers[1].right);
  say_number("busy", workers[0].busy + workers[1].busy);
  return 0;
}
