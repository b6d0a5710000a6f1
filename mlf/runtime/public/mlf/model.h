/* What every library of mlf says of its models: the same file in all of them. */
#ifndef MLF_MODEL_H_
#define MLF_MODEL_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a run returns beside 0 and the model's own numbers. Nothing has been computed then, except with ARENA_EXHAUSTED. */
enum mlf_error {
  MLF_ERROR_ARENA_BUSY = -101,      /* another run has the arena: it was interrupted, or is in another thread */
  MLF_ERROR_ARENA_EXHAUSTED = -102, /* the model asked for more memory than it was measured to need */
  MLF_ERROR_ARGUMENT_COUNT = -103,  /* of packed arguments, as those below */
  MLF_ERROR_ARGUMENT_TYPE = -104,   /* an argument is no DLTensor */
  MLF_ERROR_NULL = -105,            /* a tensor has no data */
  MLF_ERROR_DEVICE = -106,          /* a tensor is not in the processor's memory */
  MLF_ERROR_DTYPE = -107,
  MLF_ERROR_SHAPE = -108,
  MLF_ERROR_NOT_CONTIGUOUS = -109 /* strides or an offset */
};

/* An input or output. `shape` is NULL where it is not known; `size_bytes` always holds. A quantised one stands for
   (integer - zero_point) * scale; `scale` is 0 for any other. `pool` is -1, or the pool in which the tensor lies,
   `offset_bytes` from its beginning. */
struct mlf_tensor {
  const char* name;
  const char* dtype;
  const int32_t* shape;
  uint32_t rank;
  uint32_t size_bytes;
  float scale;
  int32_t zero_point;
  int32_t pool;
  uint32_t offset_bytes;
};

/* Memory that a caller lends for a run. `data` is the content that it must hold, or NULL. */
struct mlf_pool {
  const char* name;
  const uint8_t* data;
  uint32_t size_bytes;
  uint32_t alignment_bytes;
};

/* A model by its name; the arrays that `run` takes hold one pointer per input, output, pool and device, in this order.
   Inputs and outputs that lie in pools are not passed. */
struct mlf_model {
  const char* name;
  int32_t (*run)(void* const* inputs, void* const* outputs, void* const* pools, void* const* devices);
  const struct mlf_tensor* inputs;
  const struct mlf_tensor* outputs;
  const struct mlf_pool* pools;
  const char* const* devices;
  uint32_t input_count;
  uint32_t output_count;
  uint32_t pool_count;
  uint32_t device_count;
  uint32_t arena_bytes; /* memory that it uses of the library's while it runs */
};

#ifdef __cplusplus
}
#endif

#endif /* MLF_MODEL_H_ */
