/* A GPU on which no kernel runs: what torch calls of CUDA and cuBLAS, answered as by one H100.

   dry_gpu.py loads this before CUDA's own libraries, with what else is called as functions that return 0. Memory is the
   host's, and is only taken where it is written to; copies of less than 16 MiB are made. What is launched is counted by
   name. */

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#undef cudaGetDeviceProperties
#undef cudaStreamGetCaptureInfo
#define CALL cudaError_t
#define OK cudaSuccess

/* Counts: a line "launches, threads, name" each, written to the file DRY_GPU_COUNTS when the process ends. */
static struct {
  char* name;
  long times;
  unsigned long size;
} counts[1 << 13];
static int used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void count_launch(const char* name, unsigned long size) {
  int at = 0;
  pthread_mutex_lock(&lock);
  while (at < used && strcmp(counts[at].name, name)) at++;
  if (at == used && used < (1 << 13)) counts[used++].name = strdup(name);
  if (at < used) counts[at].times++, counts[at].size += size;
  pthread_mutex_unlock(&lock);
}
void dry_gpu_reset(void) {
  used = 0;
  memset(counts, 0, sizeof counts);
}
void dry_gpu_write(const char* path) {
  FILE* file = fopen(path, "w");
  for (int at = 0; at < used; at++) fprintf(file, "%ld\t%lu\t%s\n", counts[at].times, counts[at].size, counts[at].name);
  fclose(file);
}
__attribute__((destructor)) static void end(void) {
  if (getenv("DRY_GPU_COUNTS") && used) dry_gpu_write(getenv("DRY_GPU_COUNTS"));
}

/* The device. */
CALL cudaGetDeviceCount(int* n) {
  *n = 1;
  return OK;
}
CALL cudaGetDevice(int* device) {
  *device = 0;
  return OK;
}
CALL cudaDriverGetVersion(int* version) {
  *version = 13000;
  return OK;
}
CALL cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return OK;
}
CALL cudaMemGetInfo(size_t* left, size_t* total) {
  *left = 78ul << 30;
  *total = 79ul << 30;
  return OK;
}
CALL cudaDeviceGetStreamPriorityRange(int* least, int* most) {
  *least = 0;
  *most = -5;
  return OK;
}
CALL cudaDeviceCanAccessPeer(int* can, int a, int b) {
  *can = 0;
  return OK;
}
CALL cudaDeviceGetPCIBusId(char* id, int length, int device) {
  strncpy(id, "0000:00:00.0", length);
  return OK;
}
CALL cudaDeviceGetAttribute(int* value, enum cudaDeviceAttr what, int device) {
  switch (what) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = 132;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = 49152;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 232448;
      break;
    case cudaDevAttrWarpSize:
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      *value = 32;
      break;
    case cudaDevAttrMaxGridDimX:
      *value = 2147483647;
      break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
      *value = 65535;
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      break;
    default:
      *value = 0;
  }
  return OK;
}
CALL cudaGetDeviceProperties(struct cudaDeviceProp* p, int device) {
  *p = (struct cudaDeviceProp){.name = "NVIDIA H100 (dry)",
                               .totalGlobalMem = 79ul << 30,
                               .sharedMemPerBlock = 49152,
                               .regsPerBlock = 65536,
                               .warpSize = 32,
                               .maxThreadsPerBlock = 1024,
                               .maxThreadsDim = {1024, 1024, 64},
                               .maxGridSize = {2147483647, 65535, 65535},
                               .major = 9,
                               .multiProcessorCount = 132,
                               .l2CacheSize = 52428800,
                               .maxThreadsPerMultiProcessor = 2048,
                               .sharedMemPerMultiprocessor = 233472,
                               .regsPerMultiprocessor = 65536,
                               .sharedMemPerBlockOptin = 232448};
  return OK;
}

/* Memory. */
CALL cudaMalloc(void** p, size_t n) {
  *p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return *p == MAP_FAILED ? cudaErrorMemoryAllocation : OK;
}
CALL cudaHostAlloc(void** p, size_t n, unsigned flags) { return cudaMalloc(p, n); }
static CALL copy(void* to, const void* from, size_t n) {
  if (n < 1ul << 24) memcpy(to, from, n);
  return OK;
}
CALL cudaMemcpy(void* to, const void* from, size_t n, enum cudaMemcpyKind kind) { return copy(to, from, n); }
CALL cudaMemcpyAsync(void* to, const void* from, size_t n, enum cudaMemcpyKind k, cudaStream_t s) {
  return copy(to, from, n);
}
CALL cudaMemcpy2DAsync(void* to, size_t a, const void* from, size_t b, size_t w, size_t h, enum cudaMemcpyKind k,
                       cudaStream_t s) {
  for (size_t row = 0; row < h; row++) copy((char*)to + row * a, (const char*)from + row * b, w);
  return OK;
}
CALL cudaMemsetAsync(void* p, int value, size_t n, cudaStream_t s) {
  count_launch("memset", n);
  return OK;
}
CALL cudaPointerGetAttributes(struct cudaPointerAttributes* a, const void* p) {
  *a = (struct cudaPointerAttributes){.type = cudaMemoryTypeDevice, .devicePointer = (void*)p};
  return OK;
}
CALL cudaGetSymbolAddress(void** p, const void* symbol) {
  *p = (void*)symbol;
  return OK;
}

/* Streams, events, graphs. */
static int capturing, captures;
CALL cudaStreamCreateWithPriority(cudaStream_t* s, unsigned flags, int priority) {
  *s = malloc(16);
  return OK;
}
CALL cudaEventCreate(cudaEvent_t* e) {
  *e = malloc(16);
  return OK;
}
CALL cudaEventCreateWithFlags(cudaEvent_t* e, unsigned flags) {
  *e = malloc(16);
  return OK;
}
CALL cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  *ms = 1;
  return OK;
}
CALL cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus* status) {
  *status = capturing ? 1 : 0;
  return OK;
}
CALL cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus* status, unsigned long long* id,
                              cudaGraph_t* g, const cudaGraphNode_t** nodes, const cudaGraphEdgeData** edges,
                              size_t* n) {
  *status = capturing ? 1 : 0;
  if (id) *id = capturing;
  if (n) *n = 0;
  return OK;
}
CALL cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode) {
  capturing = ++captures;
  return OK;
}
CALL cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* g) {
  capturing = 0;
  *g = malloc(16);
  return OK;
}
CALL cudaGraphInstantiateWithFlags(cudaGraphExec_t* e, cudaGraph_t g, unsigned long long flags) {
  *e = malloc(16);
  return OK;
}
CALL cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t* nodes, size_t* n) {
  *n = 1;
  return OK;
}
CALL cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s) {
  count_launch("graph launch", 0);
  return OK;
}
CALL cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t run, void* data) {
  run(data);
  return OK;
}
const char* cudaGetErrorName(cudaError_t e) { return e ? "a simulated error" : "no error"; }
const char* cudaGetErrorString(cudaError_t e) { return cudaGetErrorName(e); }
CALL cudaGetDriverEntryPointByVersion(const char* name, void** p, unsigned version, unsigned long long flags,
                                      enum cudaDriverEntryPointQueryResult* result) {
  static void* driver;
  if (!driver) driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_GLOBAL);
  *p = driver ? dlsym(driver, name) : 0;
  if (result) *result = *p ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return *p ? OK : cudaErrorInvalidValue;
}

/* Kernels that torch was built with: named when its libraries are loaded. */
#define SLOTS (1 << 18)
static struct {
  const void* host;
  const char* name;
} kernels[SLOTS];
static unsigned slot(const void* host) {
  unsigned at = ((unsigned long)host >> 3) * 0x9E3779B97F4A7C15ul >> 46;
  while (kernels[at].host && kernels[at].host != host) at = (at + 1) % SLOTS;
  return at;
}
void** __cudaRegisterFatBinary(void* binary) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void** handle) {}
void __cudaUnregisterFatBinary(void** handle) {}
void __cudaRegisterVar(void** h, char* a, char* b, const char* name, int e, size_t s, int c, int g) {}
void __cudaRegisterFunction(void** h, const char* host, char* f, const char* name, int t, void* a, void* b, void* c,
                            void* d, int* w) {
  unsigned at = slot(host);
  kernels[at].host = host, kernels[at].name = name;
}
static CALL launch(const void* host, dim3 grid, dim3 block) {
  const char* name = kernels[slot(host)].name;
  count_launch(name ? name : "a kernel without a name",
               (unsigned long)grid.x * grid.y * grid.z * block.x * block.y * block.z);
  return OK;
}
CALL __cudaGetKernel(void** kernel, const void* host) {
  *kernel = (void*)host;
  return OK;
}
CALL __cudaLaunchKernel(void* k, dim3 g, dim3 b, void** a, size_t shared, cudaStream_t s) { return launch(k, g, b); }
CALL cudaLaunchKernel(const void* k, dim3 g, dim3 b, void** a, size_t shared, cudaStream_t s) {
  return launch(k, g, b);
}
CALL cudaLaunchCooperativeKernel(const void* k, dim3 g, dim3 b, void** a, size_t shared, cudaStream_t s) {
  return launch(k, g, b);
}
CALL cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* k, void** a) {
  return launch(k, c->gridDim, c->blockDim);
}
CALL cudaFuncGetAttributes(struct cudaFuncAttributes* a, const void* k) {
  *a = (struct cudaFuncAttributes){.ptxVersion = 90, .binaryVersion = 90, .maxThreadsPerBlock = 1024, .numRegs = 32};
  return OK;
}
CALL cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void* k, int block, size_t shared) {
  *n = 2;
  return OK;
}
CALL cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void* k, int block, size_t s, unsigned f) {
  *n = 2;
  return OK;
}
