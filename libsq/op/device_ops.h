/* struct sq_ops of a device. Private to op. */
#ifndef SQ_DEVICE_OPS_H
#define SQ_DEVICE_OPS_H

#include "sq/op.h"

/* precision and host are set already. The first call opens the device; its number counts then only. */
int sq_device_fill(struct sq_ops *ops, int device) SQ_MUSTUSE;

#endif
