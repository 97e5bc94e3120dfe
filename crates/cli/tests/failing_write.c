/* Preloaded into `quittance serve`: while the file that FAIL_NEXT_WRITE names is there, the next write to SQLite's log
   removes it and fails with EIO, as one bad block of a disk does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int fails(int fd) {
  char link[64], name[1024];
  const char *order = getenv("FAIL_NEXT_WRITE");
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, name, sizeof name - 1);
  if (order == NULL || length <= 0) return 0;
  name[length] = 0;
  return strstr(name, "-wal") != NULL && unlink(order) == 0;
}

typedef ssize_t write_at(int, const void *, size_t, off64_t);

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
  if (fails(fd)) {
    errno = EIO;
    return -1;
  }
  return ((write_at *)dlsym(RTLD_NEXT, "pwrite64"))(fd, bytes, count, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return pwrite64(fd, bytes, count, at); }
