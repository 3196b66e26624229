/* libsq/wire/wire.h - the inside of a stream, shared by its reader and its writer */
#ifndef SQ_WIRE_H
#define SQ_WIRE_H

#include "sq/hash.h"
#include "sq/isa.h"
#include "sq/stream.h"
#include "sq/temp.h"

enum {
    WIRE_MAJOR = 1,
    WIRE_MINOR = 0,
    WIRE_DEPTH = 32,       /* nesting of a header, its own map included */
    WIRE_VALUES = 1 << 20, /* values in one header: bounds what its json_t can cost */
    WIRE_BUF = 64 << 10,
    WIRE_SLICE = 1 << 20, /* bulk data is hashed and moved in slices that stay in cache */
    WIRE_WHERE = 256,
};

struct wire_text {
    char *data;
    size_t len, cap;
};

struct sq_stream;

/* What carries the bytes of a stream: a row of endpoint.c's table. A function says in its error where it was. */
struct wire_transport {
    bool (*takes)(const char *spec);
    int (*open)(struct sq_stream *s, const char *spec);
    /* wire_read, wire_write; wire_at_end when nothing is read ahead; wire_close, also after a failed open */
    int64_t (*read)(struct sq_stream *s, void *dst, size_t n);
    int (*write)(struct sq_stream *s, const void *a, size_t na, const void *b, size_t nb);
    int (*at_end)(struct sq_stream *s);
    int (*close)(struct sq_stream *s, bool ok);
};

extern const struct wire_transport wire_fd, wire_zmq;

struct sq_stream {
    enum sq_dir dir;
    const struct wire_transport *transport;
    char *path;   /* as given; NULL for - and fd:N */
    int64_t size; /* reader of a regular file: its size, else -1 */

    int fd;       /* wire_fd */
    struct sq_temp temp; /* wire_fd, writer to a path: what is written until finish */
    struct link *link; /* wire_zmq */

    int code; /* the first error and its text */
    char text[512];

    struct sq_hash sum;  /* of all bytes of the stream so far */
    struct sq_hash part; /* of the open chunk */
    struct sq_hash before; /* reader: sum in front of the current record */
    int64_t bytes, records;
    int64_t bytes_at; /* reader: bytes in front of the current record */
    int64_t left;  /* payload bytes of the current record that were not read or written yet */
    int64_t chunk; /* of these, what is left of the open chunk */
    bool begun, ended;
    bool aborting; /* writer: what is written now is the abort record, which waits for nobody */
    bool in_payload; /* reader: of the current record; messages say so */

    json_t *begin, *end;           /* reader: these records */
    char where[WIRE_WHERE];        /* the current record in words, for messages */
    struct sq_stream *peer;        /* a filter's reader and its writer know each other: in_digest */
    char digest[SQ_HASH_TEXT];     /* reader: of the whole stream, once ended, else "" */
    char in_digest[SQ_HASH_TEXT];  /* writer: digest of the input once that has ended, else "" */

    json_t *chunk_head; /* reader: members of the open chunk record without data */
    int64_t pairs;      /* reader: of its map, members still to come */
    int64_t budget, values; /* reader: what the header being decoded may still use */

    struct wire_text head; /* writer: the header being encoded */
    uint8_t *scratch;      /* WIRE_SLICE bytes, for skipping and copying; NULL until needed */
    uint8_t *buf;       /* WIRE_BUF bytes: read ahead, or waiting to be written */
    size_t pos, len;
    size_t hashed;      /* reader: buf[hashed .. pos) was consumed and is not in sum yet */
};

/* ---- errors ---- */

/* Keep the first failure of s and its text; returns rc. */
int wire_stick(struct sq_stream *s, int rc);
/* The kept failure again: its code, its text in sq_errmsg(). 0 if there was none. */
int wire_failed(const struct sq_stream *s);
/* "'model.sq': " or "" */
const char *wire_label(const struct sq_stream *s, char buf[WIRE_WHERE]);

/* ---- endpoint.c ---- */

/* Find the transport of spec and open it; a ZeroMQ endpoint waits for its peer. */
int wire_open(struct sq_stream *s, const char *spec);
/* Writer, ok: the file gets its final name, the peer has acknowledged the end; else the file is removed, the peer
 * sees the input end. */
int wire_close(struct sq_stream *s, bool ok);
/* At least one byte into dst, at most n; 0 at the end of input. */
int64_t wire_read(struct sq_stream *s, void *dst, size_t n);
/* All of a, then all of b. */
int wire_write(struct sq_stream *s, const void *a, size_t na, const void *b, size_t nb);
/* The end record is good: nothing may follow (the end of the input was reached, or nobody has sent more so far); a
 * ZeroMQ peer gets its acknowledgement. */
int wire_at_end(struct sq_stream *s);
int wire_bytes_follow(void); /* the error of it */

/* ---- encode.c ---- */

void wire_text_release(struct wire_text *t);
/* Append head as msgpack. bytes >= 0 becomes the value of its member "bytes", which is added at the end when
 * it is absent and bytes > 0. */
int wire_encode(struct wire_text *t, const json_t *head, int64_t bytes);
/* Append what stands in front of a chunk's n bytes, and what stands behind them. */
int wire_encode_chunk(struct wire_text *t, uint32_t n);
int wire_encode_chunk_end(struct wire_text *t, uint64_t digest);

/* ---- decode.c ---- */

/* n consumed bytes of the stream; SQ_E_TRUNC when the input ends before. */
int wire_take(struct sq_stream *s, void *dst, size_t n);
/* A new header begins: everything consumed so far goes into sum, limits start anew. */
void wire_header_starts(struct sq_stream *s);
/* One map. *out is a new reference. */
int wire_decode(struct sq_stream *s, json_t **out);
/* The head of a map: the number of its members. */
int wire_decode_map(struct sq_stream *s, int64_t *pairs);
/* The next member of a map into obj; when it is "data" with a bin value: 1, with its length in *bin and
 * nothing added. */
int wire_decode_member(struct sq_stream *s, json_t *obj, uint32_t *bin);

/* ---- reader.c, writer.c ---- */

int wire_read_begin(struct sq_stream *s);
int wire_write_end(struct sq_stream *s);
/* Tell the reader that this stream ends in failure; best effort. */
void wire_write_abort(struct sq_stream *s, int code, const char *text);

/* ---- prov.c ---- */

/* A new reference: one entry of provenance for this program, with the kernels that it uses: they decide the last bits of
 * sums. */
json_t *wire_provenance(const struct sq_app *app, enum sq_isa kernels);

#endif
