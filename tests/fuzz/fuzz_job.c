/* The bytes are a job file, run as sq-window --job does, with the options that the corpus was made with: learned or refused. Bytes
 * that do not begin as a stream are read in pairs, which spoil the records of a good job whose digests are made anew. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
