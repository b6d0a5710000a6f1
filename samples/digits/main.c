/* Reads one digit with the model `digits`, and says which it is. */
#include <stddef.h>
#include <stdint.h>

#include "board.h"
#include "tvmgen_digits.h"

#define PIXELS TVMGEN_DIGITS_IMAGE_SIZE
#define CLASSES TVMGEN_DIGITS_SCORES_SIZE

/* Where a camera would be read: pixels from 0 to 16. */
static const uint8_t picture[PIXELS] = {
  0,  0,  9, 15, 14,  2,  0,  0,
  0,  0,  9,  3,  9,  8,  0,  0,
  0,  0,  0,  0,  6, 10,  0,  0,
  0,  0,  0, 10, 15,  2,  0,  0,
  0,  0,  2, 10, 11, 15,  2,  0,
  0,  3,  1,  0,  0, 14,  4,  0,
  0, 10, 13,  7,  2, 12,  4,  0,
  0,  0,  7, 14, 16, 10,  0,  0,
};

/* The model was trained with pixels from 0 to 1; as bytes they are whole steps of the scale, from the zero point. */
static int8_t quantized(float value) {
  float steps = value / TVMGEN_DIGITS_IMAGE_SCALE + (float)TVMGEN_DIGITS_IMAGE_ZERO_POINT;

  steps = steps < -128.0f ? -128.0f : steps > 127.0f ? 127.0f : steps;
  return (int8_t)(steps < 0.0f ? steps - 0.5f : steps + 0.5f);
}

int main(void) {
  static int8_t image[PIXELS], scores[CLASSES];
  struct tvmgen_digits_inputs inputs = {image};
  struct tvmgen_digits_outputs outputs = {scores};
  char text[] = "this is a ?\n";
  size_t index, best = 0;

  for (index = 0; index < PIXELS; ++index) {
    image[index] = quantized((float)picture[index] / 16.0f);
  }
  if (tvmgen_digits_run(&inputs, &outputs) != 0) {
    return 1;
  }
  for (index = 1; index < CLASSES; ++index) {
    best = scores[index] > scores[best] ? index : best; /* all have the same scale, so bytes compare as numbers do */
  }
  text[sizeof text - 3] = (char)('0' + best);
  board_puts(text);
  return 0;
}
