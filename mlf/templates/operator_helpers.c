/* The upper half of 2 * a * b, to the nearest integer, ties towards plus infinity. */
static inline int32_t fixed_product(int32_t a, int32_t b) {
  return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
}

/* value / 2^(places + 1), to the nearest integer, ties away from zero; for values above -2^31. */
static inline int32_t fixed_shift(int32_t value, int places) {
  const int32_t twice = (value + (value >> 31)) >> places;
  return (twice >> 1) + (twice & 1);
}

/* value / 2^places, to the nearest integer, ties away from zero; places may be 0. */
static inline int32_t fixed_shift_any(int32_t value, int places) {
  return places == 0 ? value : fixed_shift(value, places - 1);
}

/* A sum in units of the output: total * multiplier / 2^31, then / 2^(places + 1), each rounded. */
static inline int32_t fixed_scale(int32_t total, int32_t multiplier, int places) {
  return fixed_shift(fixed_product(total, multiplier), places);
}

/* A sum in units of the output: total * multiplier / 2^places, rounded once, ties towards plus infinity. */
static inline int32_t fixed_scale_once(int32_t total, int32_t multiplier, int places) {
  return (int32_t)(((int64_t)total * multiplier + ((int64_t)1 << (places - 1))) >> places);
}

/* The same for a sum of 64 bits. */
static inline int32_t fixed_scale_wide(int64_t total, int32_t multiplier, int places) {
  return (int32_t)((total * multiplier + ((int64_t)1 << (places - 1))) >> places);
}

/* The same for a sum of 64 bits and a multiplier of 53, of which the product loses the last 22. */
static inline int32_t fixed_scale_long(int64_t total, int64_t multiplier, int places) {
  const int64_t low = (total * (multiplier & 4194303)) >> 22;
  return (int32_t)((total * (multiplier >> 22) + low + ((int64_t)1 << (places - 1))) >> places);
}

/* total / count, to the nearest integer, ties away from zero. */
static inline int32_t fixed_average(int32_t total, int32_t count) {
  return (total + (total > 0 ? count / 2 : -(count / 2))) / count;
}

/* A float below 2^22 to the nearest integer, ties to even: adding 1.5 * 2^23 leaves it no fraction. */
static inline int32_t round_even(float value) {
  return (int32_t)(value + 12582912.0f) - 12582912;
}

/* A float below 2^31 to the nearest integer, ties away from zero. */
static inline int32_t round_away(float value) {
  const int32_t whole = (int32_t)value;
  const float rest = value - (float)whole;
  return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

/* The larger of a float and 0, by its sign bit: for vectors, and where comparing floats takes long. */
static inline float relu(float value) {
  union {
    float number;
    int32_t bits;
  } word = {value};
  word.bits &= ~(word.bits >> 31);
  return word.number;
}

/* The smaller of a float and a limit above 0: bits of floats that are not both negative compare as integers do. */
static inline float at_most(float value, float limit) {
  union {
    float number;
    int32_t bits;
  } word = {value}, bound = {limit};
  if (word.bits > bound.bits) word.bits = bound.bits;
  return word.number;
}

static inline int32_t clip_int32(int32_t value, int32_t low, int32_t high) {
  return value < low ? low : value > high ? high : value;
}

/* What is no number becomes `high`. */
static inline float clip_float(float value, float low, float high) {
  const float limited = value < high ? value : high;
  return limited > low ? limited : low;
}

static inline int8_t clip_int8(int32_t value) {
  return (int8_t)clip_int32(value, -128, 127);
}

static inline uint8_t clip_uint8(int32_t value) {
  return (uint8_t)clip_int32(value, 0, 255);
}

static inline int16_t clip_int16(int32_t value) {
  return (int16_t)clip_int32(value, -32768, 32767);
}
