/* Outputs that are not complete: what the next writer of the same name removes, and what it leaves alone. */
#include "sq/temp.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char out[96]; /* in a folder of its own */

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static int setup(void **state)
{
    static char folder[64];
    *state = folder;
    snprintf(folder, sizeof folder, "/tmp/sq-temp-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(out, sizeof out, "%s/out", folder);
    return 0;
}

static int teardown(void **state)
{
    return rmdir(*state); /* every test leaves it empty */
}

/* A file in the folder: "/x" is beside out, "a" is a longer name than out. */
static const char *beside(const char *end)
{
    static char path[128];
    snprintf(path, sizeof path, "%s%s", out, end);
    return path;
}

static void touch(const char *end)
{
    const int fd = open(beside(end), O_WRONLY | O_CREAT | O_EXCL, 0666);
    assert_true(fd >= 0);
    close(fd);
}

static void a_file_gets_its_name_when_it_is_complete(void **state)
{
    struct sq_temp t = {0};
    (void)state;
    for (int again = 0; again < 2; again++) { /* the second time in place of a file */
        assert_int_equal(sq_temp_file(&t, out), 0);
        assert_true(exists(t.path) && exists(out) == (again == 1));
        assert_int_equal(write(t.fd, "text", 4), 4);
        assert_int_equal(sq_temp_finish(&t), 0);
        assert_true(exists(out));
        sq_temp_remove(&t);
        assert_true(exists(out));
    }
    struct stat st;
    assert_int_equal(stat(out, &st), 0);
    assert_int_equal(st.st_size, 4);
    assert_int_equal(sq_temp_file(&t, out), 0);
    sq_temp_remove(&t);
    sq_temp_remove(&t);
    unlink(out);
}

static void a_folder_goes_with_the_files_in_it(void **state)
{
    char file[SQ_TEMP_PATH + 8];
    struct sq_temp t = {0};
    (void)state;
    for (int ok = 0; ok < 2; ok++) {
        assert_int_equal(sq_temp_folder(&t, out), 0);
        snprintf(file, sizeof file, "%s/file", t.path);
        close(open(file, O_WRONLY | O_CREAT, 0666));
        assert_true(exists(file));
        if (ok)
            assert_int_equal(sq_temp_finish(&t), 0);
        sq_temp_remove(&t);
        assert_int_equal(exists(out), ok);
    }
    unlink(beside("/file"));
    assert_int_equal(rmdir(out), 0);
}

static void names_that_cannot_be_written(void **state)
{
    char name[SQ_TEMP_TARGET + 1];
    struct sq_temp t = {0};
    (void)state;
    memset(name, 'x', sizeof name);
    name[SQ_TEMP_TARGET] = 0;
    assert_int_equal(sq_temp_file(&t, name), SQ_E_ARG);
    assert_int_equal(sq_temp_file(&t, ""), SQ_E_ARG);
    assert_int_equal(sq_temp_file(&t, beside("/none/out")), SQ_E_IO);
    assert_non_null(strstr(sq_errmsg(), "No such file or directory"));
    struct sq_temp same = {0};
    assert_int_equal(sq_temp_file(&t, out), 0);
    assert_int_equal(sq_temp_file(&same, out), SQ_E_IO); /* its own name, locked: nothing of it is touched */
    assert_non_null(strstr(sq_errmsg(), "another program writes it, or remove '"));
    assert_true(exists(t.path));
    sq_temp_remove(&same);
    assert_true(exists(t.path));
    sq_temp_remove(&t);
}

static void what_a_link_leads_to_is_replaced(void **state)
{
    struct sq_temp t = {0};
    struct stat st;
    (void)state;
    touch("2");
    for (int folder = 0; folder < 2; folder++) {
        assert_int_equal(symlink("out2", out), 0);
        assert_int_equal(folder ? sq_temp_folder(&t, out) : sq_temp_file(&t, out), 0);
        assert_int_equal(fstat(t.fd, &st), 0);
        const ino_t mine = st.st_ino;
        assert_int_equal(sq_temp_finish(&t), 0);
        assert_true(lstat(out, &st) == 0 && S_ISLNK(st.st_mode));
        assert_true(stat(beside("2"), &st) == 0 && st.st_ino == mine);
        assert_int_equal(unlink(out), 0);
        if (!folder)
            assert_true(unlink(beside("2")) == 0 && mkdir(beside("2"), 0777) == 0);
    }
    assert_int_equal(rmdir(beside("2")), 0);
    assert_int_equal(symlink("nowhere", out), 0);
    assert_int_equal(sq_temp_file(&t, out), 0);
    assert_int_equal(sq_temp_finish(&t), 0);
    assert_true(lstat(out, &st) == 0 && S_ISREG(st.st_mode));
    assert_int_equal(unlink(out), 0);
}

static void nothing_but_its_like_is_replaced(void **state)
{
    struct sq_temp t = {0};
    (void)state;
    assert_int_equal(mkfifo(out, 0666), 0);
    assert_int_equal(sq_temp_file(&t, out), SQ_E_ARG);
    assert_non_null(strstr(sq_errmsg(), "out' is not a regular file"));
    assert_int_equal(sq_temp_folder(&t, out), SQ_E_ARG);
    assert_non_null(strstr(sq_errmsg(), "out' is not a directory"));
    assert_int_equal(unlink(out), 0);
    assert_int_equal(mkdir(out, 0777), 0);
    assert_int_equal(sq_temp_file(&t, out), SQ_E_ARG);
    assert_non_null(strstr(sq_errmsg(), "out' is a directory"));
    assert_int_equal(rmdir(out), 0);
}

static void what_killed_writers_left_is_removed_and_nothing_else(void **state)
{
    static const char *const stale[] = {".sq-tmp-1", ".sq-tmp-4194303"};
    static const char *const others[] = {".sq-tmp-", ".sq-tmp-1x", ".sq-tmp", ".tmp-1", "2.sq-tmp-1", ".sq-tmp-1.bak"};
    struct sq_temp t = {0};
    (void)state;
    for (int i = 0; i < SQ_COUNT(stale); i++)
        touch(stale[i]);
    for (int i = 0; i < SQ_COUNT(others); i++)
        touch(others[i]);
    assert_int_equal(mkdir(beside(".sq-tmp-7"), 0777), 0);
    touch(".sq-tmp-7/file");
    assert_int_equal(symlink("nowhere", beside(".sq-tmp-8")), 0);
    assert_int_equal(sq_temp_file(&t, out), 0);
    for (int i = 0; i < SQ_COUNT(stale); i++)
        assert_false(exists(beside(stale[i])));
    assert_false(exists(beside(".sq-tmp-7")));
    assert_int_equal(unlink(beside(".sq-tmp-8")), 0); /* a link is nobody's output */
    for (int i = 0; i < SQ_COUNT(others); i++)
        assert_int_equal(unlink(beside(others[i])), 0);
    sq_temp_remove(&t);
}

/* Another process that writes out, as file or as folder: its number, and the path of what it writes. */
static pid_t writer(char path[SQ_TEMP_PATH], bool folder)
{
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        struct sq_temp t = {0};
        if ((folder ? sq_temp_folder(&t, out) : sq_temp_file(&t, out)) == 0 && write(ready[1], t.path, sizeof t.path) > 0)
            pause();
        _exit(1);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], path, SQ_TEMP_PATH), SQ_TEMP_PATH);
    close(ready[0]);
    return pid;
}

static void that_of_a_living_writer_stays_until_it_is_killed(void **state)
{
    char its[SQ_TEMP_PATH];
    struct sq_temp t = {0};
    (void)state;
    for (int folder = 0; folder < 2; folder++) {
        const pid_t pid = writer(its, folder);
        assert_int_equal(sq_temp_file(&t, out), 0);
        assert_true(exists(its));
        sq_temp_remove(&t);
        assert_true(exists(its));
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_true(exists(its));
        assert_int_equal(sq_temp_folder(&t, out), 0);
        assert_false(exists(its));
        sq_temp_remove(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_file_gets_its_name_when_it_is_complete, setup, teardown),
        cmocka_unit_test_setup_teardown(a_folder_goes_with_the_files_in_it, setup, teardown),
        cmocka_unit_test_setup_teardown(names_that_cannot_be_written, setup, teardown),
        cmocka_unit_test_setup_teardown(what_a_link_leads_to_is_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_but_its_like_is_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(what_killed_writers_left_is_removed_and_nothing_else, setup, teardown),
        cmocka_unit_test_setup_teardown(that_of_a_living_writer_stays_until_it_is_killed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
