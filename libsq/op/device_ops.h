/* struct sq_ops of a device. Private to op. */
#ifndef SQ_DEVICE_OPS_H
#define SQ_DEVICE_OPS_H

#include "sq/op.h"

/* precision and host are set already. The first call opens the device; its number counts then only. */
int sq_device_fill(struct sq_ops *ops, int device) SQ_MUSTUSE;
/* Opens the device and runs every operation of it beside the reference once. SQ_E_UNSUP: there is none; SQ_E_CHECK: one
 * disagrees, and the device is closed again. */
int sq_device_try(char name[128], int device) SQ_MUSTUSE;

#endif
