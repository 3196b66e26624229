/* sq/stream.h - the stream that programs exchange: msgpack records over files and pipes
 * (normative text: schemas/stream.md)
 *
 * A record is one msgpack map, the header; its member "record" names its kind. A header with a member
 * "bytes": N is followed by ceil(N / 64 MiB) chunk records {"record": "chunk", "data": bin,
 * "xxh3": hex digest of data} that carry N bytes together. Nothing else is in a stream. */
#ifndef SQ_STREAM_H
#define SQ_STREAM_H

#include <jansson.h>

#include "sq/app.h"
#include "sq/hash.h"
#include "sq/tensor.h"

SQ_BEGIN_DECLS

enum { SQ_CHUNK = 64 << 20, SQ_HEADER_MAX = 16 << 20 };

/* "other" is a record of a kind that this version does not know: it passes through. */
enum sq_kind {
    SQ_REC_BEGIN, SQ_REC_MODEL, SQ_REC_FILE, SQ_REC_TOKENS, SQ_REC_TENSOR, SQ_REC_LAYER,
    SQ_REC_WINDOW, SQ_REC_CURSOR, SQ_REC_END, SQ_REC_ABORT, SQ_REC_OTHER,
};

struct sq_record {
    enum sq_kind kind;
    json_t *head;  /* owned by the record; integers, reals, strings, arrays, maps: no bin */
    int64_t bytes; /* payload bytes that follow, 0 for none */
};

#define SQ_RECORD_INIT {.kind = SQ_REC_OTHER, .head = NULL, .bytes = 0}

/* "tensor", "layer", ...; NULL for SQ_REC_OTHER */
const char *sq_kind_name(enum sq_kind kind);

struct sq_stream;

enum sq_dir { SQ_READ, SQ_WRITE };

/* Open endpoint spec: "-" (stdin/stdout), "fd:N", a path, or "ipc://PATH", "tcp://HOST:PORT" over ZeroMQ (which waits
 * for its peer; a "@" in front binds, a ">" connects, else readers bind and writers connect; sq/net.h has what the
 * program was told about it). A stream to a path is written to
 * PATH.sq-tmp-PID and renamed by sq_stream_finish (sq/temp.h). Refuses terminals. Errors are sticky:
 * after the first one every call returns it. A reader waits for the first record and checks that it is a
 * begin record of this major version; sq_stream_next does not return it again. SQ_E_IO, SQ_E_FORMAT,
 * SQ_E_TRUNC, SQ_E_ARG, SQ_E_PEER. */
int sq_stream_open(struct sq_stream **out, const char *spec, enum sq_dir dir) SQ_MUSTUSE;
/* Is spec the name of a file, a FIFO or a device, and not one of the other endpoints? */
bool sq_stream_is_path(const char *spec);

/* Reader: the next record; 1, or 0 after a valid end record (its counts, bytes and digest checked),
 * or < 0. Input that stops without end is SQ_E_TRUNC, an abort record SQ_E_ABORTED with its text.
 * The payload of a record that was not read is skipped (and checked). rec is overwritten (released first). */
int sq_stream_next(struct sq_stream *in, struct sq_record *rec) SQ_MUSTUSE;
void sq_record_release(struct sq_record *rec);
/* Reader: the next n payload bytes of the current record, straight into dst. n may not exceed
 * what is left. */
int sq_stream_payload(struct sq_stream *in, void *dst, size_t n) SQ_MUSTUSE;
/* Reader: what is left of the current record's payload, into a digest. */
int sq_stream_hash(struct sq_hash *h, struct sq_stream *in) SQ_MUSTUSE;
/* Reader: the current tensor record with its payload, into owned memory of t. Shape, dtype and byte count are
 * checked against each other before anything is allocated. */
int sq_stream_tensor(struct sq_stream *in, const struct sq_record *rec, struct sq_tensor *t) SQ_MUSTUSE;
/* The same checks without reading: name, dtype and shape of a tensor record, data NULL. */
int sq_record_tensor(struct sq_tensor *t, const struct sq_record *rec) SQ_MUSTUSE;

/* Writer: a header (borrowed) and its payload of n bytes (0: none). The member "bytes" is set to n where the
 * header has one, else added when n > 0. Each record is passed on at once. */
int sq_stream_put(struct sq_stream *out, const json_t *head, const void *payload, size_t n);
/* Writer: a tensor record {"record","name","role","layer","dtype","shape","bytes"}; layer -1 for none,
 * role may be NULL. */
int sq_stream_put_tensor(struct sq_stream *out, const struct sq_tensor *t, const char *role, int64_t layer);
/* Writer: the payload in pieces: announce n bytes with a header, then give them in any cuts. */
int sq_stream_put_head(struct sq_stream *out, const json_t *head, int64_t n);
int sq_stream_put_data(struct sq_stream *out, const void *data, size_t n);
/* Pass the current record of in, with what is left of its payload, on to out; holds one chunk. */
int sq_stream_copy(struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec);

/* First record of a new stream, and of a filter: in's provenance (in may be NULL) plus one entry for this
 * program (version, arguments, seed, backend, precision, instruction set); none with --no-prov.
 * The digest of a filter's input is not known yet; it goes into its end record ("in_digest"). */
int sq_stream_begin(struct sq_stream *out, struct sq_stream *in, const struct sq_app *app);
/* The begin record of a reader, and its end record once that was read and checked, else NULL; borrowed. */
const json_t *sq_stream_header(const struct sq_stream *in);
const json_t *sq_stream_trailer(const struct sq_stream *in);

/* Writer: end record, flush, fsync and rename for paths, close; *s becomes NULL. Unchecked puts are legal, an
 * unchecked finish is not. Reader: checks that the end was seen, closes. */
int sq_stream_finish(struct sq_stream **s) SQ_MUSTUSE;
/* Error path: a writer sends abort (code and text of the last failure), removes its temporary file; closes.
 * NULL-safe; a no-op after finish. */
void sq_stream_abort(struct sq_stream **s, int code);

/* bytes through the stream so far */
int64_t sq_stream_bytes(const struct sq_stream *s);

SQ_END_DECLS
#endif
