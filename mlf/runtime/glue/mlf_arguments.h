/* Packed arguments: their types, their check, and how one is made. Internal, not for applications. */
#ifndef MLF_ARGUMENTS_H_
#define MLF_ARGUMENTS_H_

#include "tvm/runtime/c_runtime_api.h"

/* What a tensor must be. Where its shape is not known, `ndim` is negative, and -1 - ndim is the number of dimensions of a
   shape that holds as much; where its type is not known, `dtype.bits` is 0. */
struct mlf_type {
  const int64_t* shape;
  int32_t ndim;
  DLDataType dtype;
  uint32_t size_bytes;
};

/* Gives 0 if the arguments are `count` tensors of these types in memory of the processor, packed and row-major; else one
   of the errors of mlf/model.h. */
int32_t mlf_check_arguments_1(const struct mlf_type* types, int count, const TVMValue* args, const int* type_codes,
                              int num_args);

/* Makes `value` the tensor of this type that lies at `data`. */
static inline void mlf_pack(TVMValue* value, DLTensor* tensor, const struct mlf_type* type, void* data) {
  tensor->data = data;
  tensor->device.device_type = kDLCPU;
  tensor->device.device_id = 0;
  tensor->ndim = type->ndim < 0 ? -1 - type->ndim : type->ndim;
  tensor->dtype = type->dtype;
  tensor->shape = (int64_t*)type->shape;
  tensor->strides = NULL;
  tensor->byte_offset = 0;
  value->v_handle = tensor;
}

/* Gives the data of an argument. */
static inline void* mlf_data(const TVMValue* value) {
  return ((const DLTensor*)value->v_handle)->data;
}

#endif
