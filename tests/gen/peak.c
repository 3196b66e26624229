/* peak FILE COMMAND...: run the command, write its largest resident set in KiB to FILE, end with its
 * status */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct rusage use;
    int status = 0;
    if (argc < 3) {
        fprintf(stderr, "peak: FILE COMMAND... are needed\n");
        return 2;
    }
    const pid_t child = fork();
    if (child == 0) {
        execvp(argv[2], argv + 2);
        perror(argv[2]);
        _exit(127);
    }
    FILE *f = fopen(argv[1], "w");
    if (child < 0 || wait4(child, &status, 0, &use) < 0 || !f) {
        perror("peak");
        return 1;
    }
    fprintf(f, "%ld\n", use.ru_maxrss);
    return fclose(f) != 0 ? 1 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
