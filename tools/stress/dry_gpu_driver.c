/* The driver of a GPU on which no kernel runs, libcuda.so.1: what torch looks up in it, and what Triton loads kernels
   with. A function is its name, which dry_gpu_runtime.c counts. */

#include <stdlib.h>
#include <string.h>

void count_launch(const char *name, unsigned long size);

static int context;
int cuDeviceGetCount(int* n) {
  *n = 1;
  return 0;
}
int cuDeviceGet(int* device, int number) { return *device = number; }
int cuDriverGetVersion(int* version) {
  *version = 13000;
  return 0;
}
int cuCtxGetCurrent(void** c) {
  *c = &context;
  return 0;
}
int cuDevicePrimaryCtxRetain(void** c, int device) {
  *c = &context;
  return 0;
}
int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
  *active = 1;
  return 0;
}
int cuModuleLoadData(void** module, const void* image) {
  *module = malloc(8);
  return 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = strdup(name);
  return 0;
}
int cuFuncGetAttribute(int* value, int what, void* f) {
  *value = what == 4 ? 64 : what == 0 ? 1024 : 0;
  return 0;
}
int cuPointerGetAttribute(void* data, int what, unsigned long p) {
  *(unsigned long*)data = p;
  return 0;
}
int cuOccupancyMaxActiveClusters(int* n, void* f, void* c) {
  *n = 64;
  return 0;
}
int cuGetErrorString(int e, const char** text) {
  *text = "a simulated error";
  return 0;
}
int cuDeviceGetAttribute(int* value, int what, int device) {
  static const int known[][2] = {{75, 9},     {16, 132},     {97, 232448},   {8, 49152}, {81, 233472},
                                 {82, 65536}, {12, 65536},   {10, 32},       {1, 1024},  {36, 2619000},
                                 {37, 5120},  {13, 1980000}, {38, 52428800}, {39, 2048}}; /* CUdevice_attribute */
  *value = 0;
  for (int at = 0; at < sizeof known / sizeof *known; at++)
    if (known[at][0] == what) *value = known[at][1];
  return 0;
}
int cuLaunchKernel(void* f, unsigned x, unsigned y, unsigned z, unsigned a) {
  count_launch(f, (unsigned long)x * y * z * a);
  return 0;
}
int cuLaunchKernelEx(unsigned* grid, void* f, void** parameters, void** extra) {
  count_launch(f, (unsigned long)grid[0] * grid[1] * grid[2] * grid[3]);
  return 0;
}
