/*
 * Two models in one program: calls tone, glyph and tone again, and compares every answer with the known one.
 *
 * golden.h holds the tensors of samples/NAME.inputs.npz and samples/NAME.outputs.npz. With MLF_BOARD the text goes
 * where board.h sends it, and nothing needs stdio.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "golden.h"
#include "tvmgen_glyph.h"
#include "tvmgen_tone.h"

#ifdef MLF_BOARD
#include "board.h"
#else
#include <stdio.h>
#endif

#define CLASSES 4
#define TOLERANCE 1e-5f

struct line {
  char text[96];
  size_t length;
};

static void put_text(struct line* line, const char* text) {
  while (*text != '\0' && line->length + 1 < sizeof line->text) {
    line->text[line->length++] = *text++;
  }
  line->text[line->length] = '\0';
}

static void put_digits(struct line* line, uint32_t value, int digits) {
  char text[11];

  text[digits] = '\0';
  while (digits > 0) {
    text[--digits] = (char)('0' + value % 10);
    value /= 10;
  }
  put_text(line, text);
}

/* A number from 0 to 1 with three decimals; a wrong model may answer anything, and that is shown as 0. */
static void put_probability(struct line* line, float value) {
  uint32_t thousandths = value >= 0.0f && value <= 1.0f ? (uint32_t)(value * 1000.0f + 0.5f) : 0;

  put_digits(line, thousandths / 1000, 1);
  put_text(line, ".");
  put_digits(line, thousandths % 1000, 3);
}

/* A number from 0 to 1, as 1.2e-07. */
static void put_scientific(struct line* line, float value) {
  uint32_t exponent = 0;
  uint32_t tenths;

  while (value > 0.0f && value < 1.0f) {
    value *= 10.0f;
    ++exponent;
  }
  tenths = (uint32_t)(value * 10.0f + 0.5f);
  if (tenths == 100) { /* 9.96e-08 is 1.0e-07 */
    tenths = 10;
    --exponent;
  }
  put_digits(line, tenths / 10, 1);
  put_text(line, ".");
  put_digits(line, tenths % 10, 1);
  put_text(line, exponent == 0 ? "e+" : "e-");
  put_digits(line, exponent, 2);
}

static void print(const struct line* line) {
#ifdef MLF_BOARD
  board_puts(line->text);
#else
  fputs(line->text, stdout);
#endif
}

static int largest(const float* values) {
  int best = 0;
  int index;

  for (index = 1; index < CLASSES; ++index) {
    best = values[index] > values[best] ? index : best;
  }
  return best;
}

/* 1, which is a failure between probabilities, when a value is not a number. */
static float largest_deviation(const float* values, const float* golden) {
  float deviation = 0.0f;
  int index;

  for (index = 0; index < CLASSES; ++index) {
    float difference = values[index] - golden[index];

    difference = difference < 0.0f ? -difference : difference;
    if (!(difference <= 1.0f)) {
      return 1.0f;
    }
    deviation = difference > deviation ? difference : deviation;
  }
  return deviation;
}

/* Says what a model answered; 1 when that is not the golden answer. */
static int report(const char* model, int32_t status, const float* output, const float* golden) {
  struct line line = {"", 0};
  float deviation = largest_deviation(output, golden);
  int best = largest(output);

  put_text(&line, model);
  if (status != 0) {
    put_text(&line, ": failed\n");
    print(&line);
    return 1;
  }
  put_text(&line, ": class ");
  put_digits(&line, (uint32_t)best, 1);
  put_text(&line, " (");
  put_probability(&line, output[best]);
  put_text(&line, "), largest deviation ");
  put_scientific(&line, deviation);
  put_text(&line, deviation <= TOLERANCE ? "\n" : ", too large\n");
  print(&line);
  return deviation <= TOLERANCE ? 0 : 1;
}

static int run_tone(void) {
  static float samples[TVMGEN_TONE_SAMPLES_SIZE / sizeof(float)];
  float output[CLASSES] = {0.0f};
  struct tvmgen_tone_inputs inputs = {samples};
  struct tvmgen_tone_outputs outputs = {output};

  memcpy(samples, golden_tone_samples, sizeof samples); /* where a microphone would be read */
  return report("tone", tvmgen_tone_run(&inputs, &outputs), output, golden_tone_output);
}

static int run_glyph(void) {
  static float picture[TVMGEN_GLYPH_PICTURE_SIZE / sizeof(float)];
  float output[CLASSES] = {0.0f};
  struct tvmgen_glyph_inputs inputs = {picture};
  struct tvmgen_glyph_outputs outputs = {output};

  memcpy(picture, golden_glyph_picture, sizeof picture); /* where a camera would be read */
  return report("glyph", tvmgen_glyph_run(&inputs, &outputs), output, golden_glyph_output);
}

int main(void) {
  int failures = run_tone();

  failures += run_glyph();
  failures += run_tone(); /* after another model used its memory */
  return failures == 0 ? 0 : 1;
}
