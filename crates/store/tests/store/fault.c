/* Makes the disk of a process fail on command: loaded before the C library, it looks for two files in the folder that
 * NM_FAULT_DIR names. While `full` is there, writes to database files fail with ENOSPC; while `eio` is there, syncing them
 * fails with EIO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int ours(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return strstr(path, ".db") != NULL;
}

static int on(const char *what) {
    char path[4096];
    const char *dir = getenv("NM_FAULT_DIR");
    if (!dir) return 0;
    snprintf(path, sizeof path, "%s/%s", dir, what);
    return access(path, F_OK) == 0;
}

static int fails(int fd, const char *what, int error) {
    int saved = errno;
    if (on(what) && ours(fd)) {
        errno = error;
        return 1;
    }
    errno = saved;
    return 0;
}

#define NEXT(name, type) ((type)dlsym(RTLD_NEXT, name))

ssize_t write(int fd, const void *data, size_t size) {
    if (fails(fd, "full", ENOSPC)) return -1;
    return NEXT("write", ssize_t (*)(int, const void *, size_t))(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    if (fails(fd, "full", ENOSPC)) return -1;
    return NEXT("pwrite", ssize_t (*)(int, const void *, size_t, off_t))(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    if (fails(fd, "full", ENOSPC)) return -1;
    return NEXT("pwrite64", ssize_t (*)(int, const void *, size_t, off64_t))(fd, data, size, at);
}
int fsync(int fd) {
    if (fails(fd, "eio", EIO)) return -1;
    return NEXT("fsync", int (*)(int))(fd);
}
int fdatasync(int fd) {
    if (fails(fd, "eio", EIO)) return -1;
    return NEXT("fdatasync", int (*)(int))(fd);
}
