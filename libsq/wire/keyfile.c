#include "keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"

#if SQ_HAVE_ZMQ
#include <zmq.h>

#include "sq/fault.h"

static const char secret_word[] = "sq-secret-key ", public_word[] = "sq-public-key ";

enum { Z85 = 41, LINE = 1024, HEX = 2 * KEY_BYTES };

int keyfile_random(struct key *secret, struct key *public_key)
{
    char p[Z85], s[Z85];
    if (zmq_curve_keypair(p, s) < 0)
        return sq_fail(SQ_E_UNSUP, "this libzmq has no CURVE: no keys, tcp on loopback only");
    zmq_z85_decode(public_key->byte, p);
    zmq_z85_decode(secret->byte, s);
    explicit_bzero(s, sizeof s);
    return 0;
}

static int public_of(struct key *public_key, const struct key *secret)
{
    char p[Z85], s[Z85];
    zmq_z85_encode(s, secret->byte, KEY_BYTES);
    const int rc = zmq_curve_public(p, s);
    explicit_bzero(s, sizeof s);
    if (rc < 0)
        return sq_fail(SQ_E_UNSUP, "this libzmq has no CURVE: no keys, tcp on loopback only");
    zmq_z85_decode(public_key->byte, p);
    return 0;
}

/* ---- writing ---- */

static int write_key(const char *path, const char *word, const struct key *k, mode_t mode)
{
    char line[LINE];
    int n = snprintf(line, sizeof line, "%s", word);
    for (int i = 0; i < KEY_BYTES; i++)
        n += snprintf(line + n, sizeof line - (size_t)n, "%02x", k->byte[i]);
    line[n++] = '\n';
    const int fd = sq_fault(SQ_FAULT_OPEN) ? -1 : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    bool ok = fd >= 0 && !sq_fault(SQ_FAULT_WRITE) && write(fd, line, (size_t)n) == n && !sq_fault(SQ_FAULT_SYNC) && fsync(fd) == 0;
    const int e = errno;
    explicit_bzero(line, sizeof line);
    if (fd >= 0)
        ok &= close(fd) == 0;
    if (!ok && fd >= 0)
        unlink(path);
    return ok ? 0 : sq_fail(SQ_E_IO, "cannot write '%s': %s", path, strerror(e));
}

int sq_keys_generate(const char *path)
{
    struct key secret, public_key;
    char pub[4096];
    int rc = keyfile_random(&secret, &public_key);

    if (rc == 0 && snprintf(pub, sizeof pub, "%s.pub", path) >= (int)sizeof pub)
        rc = sq_fail(SQ_E_ARG, "the name of the key file is too long");
    if (rc == 0)
        rc = write_key(pub, public_word, &public_key, 0644);
    if (rc == 0 && (rc = write_key(path, secret_word, &secret, 0600)) < 0)
        unlink(pub);
    explicit_bzero(&secret, sizeof secret);
    return rc;
}

/* ---- reading ---- */

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* line is word, 64 digits, then nothing or a blank and a remark */
static bool parse_line(struct key *k, const char *line, const char *word)
{
    const char *p = line + strlen(word);
    if (strncmp(line, word, strlen(word)) != 0 || strlen(p) < HEX)
        return false;
    for (int i = 0; i < KEY_BYTES; i++, p += 2) {
        const int high = digit(p[0]), low = digit(p[1]);
        if (high < 0 || low < 0)
            return false;
        k->byte[i] = (uint8_t)(high << 4 | low);
    }
    return *p == 0 || *p == ' ' || *p == '\n' || *p == '\r';
}

static int open_file(FILE **f, const char *path, bool secret)
{
    struct stat st;
    *f = NULL;
    const int fd = sq_fault(SQ_FAULT_OPEN) ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int rc = 0;

    if (fd < 0 || fstat(fd, &st) < 0)
        rc = sq_fail(SQ_E_ARG, "cannot read the key file '%s': %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = sq_fail(SQ_E_ARG, "the key file '%s' is no plain file", path);
    else if (secret && (st.st_mode & 077))
        rc = sq_fail(SQ_E_ARG, "others may read the secret key '%s' (mode %04o): chmod 600 '%s', or make a new one",
                     path, (unsigned)(st.st_mode & 07777), path);
    else if (secret && st.st_uid != geteuid() && st.st_uid != 0)
        rc = sq_fail(SQ_E_ARG, "the secret key '%s' belongs to another user", path);
    else if (!(*f = fdopen(fd, "r")))
        rc = sq_fail(SQ_E_NOMEM, "no memory for '%s'", path);
    if (rc < 0 && fd >= 0)
        close(fd);
    return rc;
}

int keyfile_secret(struct key *secret, struct key *public_key, const char *path)
{
    char line[LINE] = "", *got;
    FILE *f;
    int rc = open_file(&f, path, true);

    if (rc < 0)
        return rc;
    setvbuf(f, NULL, _IONBF, 0); /* no copy of the key in a buffer that nobody wipes */
    do
        got = fgets(line, sizeof line, f);
    while (got && (*line == '#' || *line == '\n'));
    fclose(f);
    if (parse_line(secret, line, secret_word))
        rc = public_of(public_key, secret);
    else
        rc = sq_fail(SQ_E_ARG, "'%s' holds no secret key: sq-dump --keygen makes one", path);
    explicit_bzero(line, sizeof line);
    return rc;
}

int keyfile_list(struct key **list, int *n, const char *path)
{
    char line[LINE];
    struct key k;
    FILE *f;
    int rc;

    *list = NULL;
    *n = 0;
    if ((rc = open_file(&f, path, false)) < 0)
        return rc;
    rc = sq_alloc(list, KEY_LIST);
    for (int i = 1; rc == 0 && fgets(line, sizeof line, f); i++) {
        if (*line == '#' || *line == '\n' || *line == '\r')
            continue;
        if (strncmp(line, secret_word, strlen(secret_word)) == 0)
            rc = sq_fail(SQ_E_ARG, "'%s' holds a secret key where public ones belong: FILE.pub is the other half", path);
        else if (!parse_line(&k, line, public_word))
            rc = sq_fail(SQ_E_ARG, "%s:%d: not a line 'sq-public-key' with %d digits", path, i, HEX);
        else if (*n == KEY_LIST)
            rc = sq_fail(SQ_E_ARG, "'%s' holds more than %d keys", path, KEY_LIST);
        else
            (*list)[(*n)++] = k;
    }
    if (rc == 0 && *n == 0)
        rc = sq_fail(SQ_E_ARG, "'%s' holds no public key", path);
    fclose(f);
    if (rc < 0) {
        sq_free(*list);
        *list = NULL;
    }
    return rc;
}

#else

int sq_keys_generate(const char *path)
{
    return sq_fail(SQ_E_UNSUP, "'%s': this sq was built without ZeroMQ, which makes the keys: install libzmq3-dev and build again",
                   path);
}

#endif
