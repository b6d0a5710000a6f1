/* Serves TVMBackendAllocWorkspace of one model from one static buffer, last in, first out. The merge of the model makes
   both functions and the buffer local to it, so that no model can take another's memory. MLF_WORKSPACE_BYTES is the most
   that the model ever holds, each block rounded up to MLF_WORKSPACE_ALIGNMENT. */
#include <stddef.h>
#include <stdint.h>

#define MLF_WORKSPACE_ALIGNMENT 16

static uint8_t workspace[MLF_WORKSPACE_BYTES]
    __attribute__((section(".bss.noinit.tvm"), aligned(MLF_WORKSPACE_ALIGNMENT)));
static size_t used_bytes;

void* TVMBackendAllocWorkspace(int device_type, int device_id, uint64_t nbytes, int dtype_code_hint,
                               int dtype_bits_hint) {
  size_t size_bytes;
  void* block = workspace + used_bytes;
  (void)device_type;
  (void)device_id;
  (void)dtype_code_hint;
  (void)dtype_bits_hint;
  if (nbytes > sizeof(workspace) - used_bytes) {
    return NULL;
  }
  size_bytes = ((size_t)nbytes + MLF_WORKSPACE_ALIGNMENT - 1) & ~(size_t)(MLF_WORKSPACE_ALIGNMENT - 1);
  if (size_bytes > sizeof(workspace) - used_bytes) {
    return NULL;
  }
  used_bytes += size_bytes;
  return block;
}

int TVMBackendFreeWorkspace(int device_type, int device_id, void* ptr) {
  const uint8_t* block = (const uint8_t*)ptr;
  (void)device_type;
  (void)device_id;
  if (block < workspace || block >= workspace + used_bytes) {
    return -1;
  }
  used_bytes = (size_t)(block - workspace);
  return 0;
}
