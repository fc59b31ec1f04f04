/* NCCL for dry_gpu.py: every rank is alone with what it has, and takes the others' as its own. */

#include <cuda_runtime_api.h>
#include <stdlib.h>

typedef struct {
  int ranks, rank;
} Group;

static int made(Group** group, int ranks, int rank) {
  *group = malloc(sizeof(Group));
  (*group)->ranks = ranks, (*group)->rank = rank;
  return 0;
}
static int copied(const void* from, void* to, size_t count, int type, size_t place, cudaStream_t stream) {
  static const int bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1}; /* of ncclDataType_t */
  size_t size = count * bytes[type];
  char* target = (char*)to + place * size;
  return from == target ? 0 : cudaMemcpyAsync(target, from, size, cudaMemcpyDeviceToDevice, stream);
}
typedef struct {
  char internal[128];
} Id;
int ncclGetVersion(int* version) {
  *version = 22809;
  return 0;
}
int ncclCommInitRank(Group** group, int ranks, Id id, int rank) { return made(group, ranks, rank); }
int ncclCommInitRankConfig(Group** group, int ranks, Id id, int rank, void* c) { return made(group, ranks, rank); }
int ncclCommInitRankScalable(Group** group, int ranks, int rank, int ids, Id* id, void* config) {
  return made(group, ranks, rank);
}
int ncclCommSplit(Group* group, int color, int key, Group** part, void* config) {
  return made(part, group->ranks, group->rank);
}
int ncclCommCount(Group* group, int* ranks) {
  *ranks = group->ranks;
  return 0;
}
int ncclCommUserRank(Group* group, int* rank) {
  *rank = group->rank;
  return 0;
}
int ncclCommGetAsyncError(Group* group, int* error) { return *error = 0; }
const char* ncclGetErrorString(int error) { return "an error"; }
const char* ncclGetLastError(Group* group) { return "no error"; }
int ncclAllReduce(void* from, void* to, size_t count, int type, int operation, Group* group, cudaStream_t stream) {
  return copied(from, to, count, type, 0, stream);
}
int ncclReduce(void* from, void* to, size_t count, int type, int operation, int root, Group* g, cudaStream_t stream) {
  return copied(from, to, count, type, 0, stream);
}
int ncclBroadcast(void* from, void* to, size_t count, int type, int root, Group* group, cudaStream_t stream) {
  return copied(from, to, count, type, 0, stream);
}
int ncclAllGather(void* from, void* to, size_t count, int type, Group* group, cudaStream_t stream) {
  return copied(from, to, count, type, group->rank, stream);
}
int ncclReduceScatter(char* from, void* to, size_t count, int type, int operation, Group* g, cudaStream_t stream) {
  return copied(from, to, count, type, 0, stream);
}
