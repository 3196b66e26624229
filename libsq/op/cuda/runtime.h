/* runtime.h - what CUDA's runtime does (runtime.cu) and the emulator does in its place (runtime_emu.cpp): memory, two
 * streams, marks, recordings. device_cuda.cu asks, after it has looked at the arguments. Private to op/cuda.
 *
 * The emulator runs nothing when it is queued, but when somebody waits, and which stream goes on is drawn
 * (SQ_EMU_SEED): work that does not wait for a copy, a copy that does not wait for work, host memory that changes too
 * early, results that are read too early show. */
#ifndef SQ_RUNTIME_H
#define SQ_RUNTIME_H

#include "gpu.h"

extern const char gpu_runtime_name[];

/* as in struct sq_device */
int gpu_count(char *why, size_t n);
void gpu_info(struct sq_gpu *g, struct sq_gpu_info *out);
int gpu_alloc_host(struct sq_gpu *g, void **out, size_t bytes);
void gpu_release_host(void *p);

/* Streams, marks and what else it keeps in g; false, with the failure in g. stop() takes what there is. */
bool gpu_start(struct sq_gpu *g);
void gpu_stop(struct sq_gpu *g);

/* A failure stays in g; what says so names itself `what`. */
void gpu_move(struct sq_gpu *g, enum sq_queue q, void *to, const void *from, size_t bytes, const char *what);
void gpu_fill(struct sq_gpu *g, enum sq_queue q, void *to, int byte, size_t bytes);
void gpu_mark(struct sq_gpu *g, int mark, enum sq_queue q);
void gpu_after(struct sq_gpu *g, enum sq_queue q, int mark);
void gpu_wait(struct sq_gpu *g); /* for both streams */
void gpu_wait_mark(struct sq_gpu *g, int mark);

void gpu_record(struct sq_gpu *g);
void gpu_recorded(struct sq_gpu *g, int recording);
bool gpu_replay(struct sq_gpu *g, int recording);
void gpu_forget(struct sq_gpu *g);

#endif
