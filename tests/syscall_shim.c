/* Makes the n-th call of one function fail, or every transfer short: preloaded into a child by
 * tests/test_syscall_failures.py and commanded from there through ctypes.
 *
 * Only calls that the library makes on its own behalf count, where a flag or the kind of the
 * descriptor tells them from those of the event loop: a loop that loses its wake-up is not ours.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char armed[32];
static long due, failure;
static size_t longest;

void shim_arm(const char *function, long n, int number)
{
    strncpy(armed, function, sizeof armed - 1);
    failure = number;
    __atomic_store_n(&due, n, __ATOMIC_SEQ_CST);
}

/* Whether the call that was to fail did. */
int shim_disarm(void)
{
    return __atomic_exchange_n(&due, 0, __ATOMIC_SEQ_CST) < 0;
}

/* Transfer at most so many bytes in one call; 0: as many as the kernel likes. */
void shim_shorten(size_t bytes)
{
    longest = bytes;
}

static int fails(const char *function)
{
    /* Zero: nothing armed; one: this call; below zero: it has failed. */
    if (__atomic_load_n(&due, __ATOMIC_SEQ_CST) <= 0 || strcmp(armed, function) != 0)
        return 0;
    if (__atomic_sub_fetch(&due, 1, __ATOMIC_SEQ_CST) != 0)
        return 0;
    __atomic_store_n(&due, -1, __ATOMIC_SEQ_CST);
    errno = (int)failure;
    return 1;
}

static int is_pipe(int fd)
{
    struct stat status;
    int before = errno, pipe = fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode);
    errno = before;
    return pipe;
}

static size_t cut(size_t size)
{
    return longest && size > longest ? longest : size;
}

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int socket(int domain, int type, int protocol)
{
    NEXT(socket);
    return fails("socket") ? -1 : next(domain, type, protocol);
}

int socketpair(int domain, int type, int protocol, int ends[2])
{
    NEXT(socketpair);
    return fails("socketpair") ? -1 : next(domain, type, protocol, ends);
}

int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    NEXT(accept4);
    return fails("accept4") ? -1 : next(fd, address, size, flags);
}

int connect(int fd, const struct sockaddr *address, socklen_t size)
{
    NEXT(connect);
    return fails("connect") ? -1 : next(fd, address, size);
}

int bind(int fd, const struct sockaddr *address, socklen_t size)
{
    NEXT(bind);
    return fails("bind") ? -1 : next(fd, address, size);
}

int listen(int fd, int backlog)
{
    NEXT(listen);
    return fails("listen") ? -1 : next(fd, backlog);
}

int getpeername(int fd, struct sockaddr *address, socklen_t *size)
{
    NEXT(getpeername);
    return fails("getpeername") ? -1 : next(fd, address, size);
}

ssize_t recv(int fd, void *buffer, size_t size, int flags)
{
    NEXT(recv);
    if (!(flags & MSG_DONTWAIT))
        return next(fd, buffer, size, flags);
    return fails("recv") ? -1 : next(fd, buffer, cut(size), flags);
}

ssize_t send(int fd, const void *buffer, size_t size, int flags)
{
    NEXT(send);
    if (!(flags & MSG_DONTWAIT))
        return next(fd, buffer, size, flags);
    return fails("send") ? -1 : next(fd, buffer, cut(size), flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    NEXT(sendmsg);
    if (flags == MSG_NOSIGNAL && fails("sendmsg with descriptors"))
        return -1;
    if (!(flags & MSG_DONTWAIT))
        return next(fd, message, flags);
    if (fails("sendmsg"))
        return -1;
    for (size_t i = 0; longest && i < message->msg_iovlen; i++)
        if (message->msg_iov[i].iov_len)
            return send(fd, message->msg_iov[i].iov_base, cut(message->msg_iov[i].iov_len), flags);
    return next(fd, message, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    NEXT(recvmsg);
    return flags & MSG_CMSG_CLOEXEC && fails("recvmsg") ? -1 : next(fd, message, flags);
}

int memfd_create(const char *name, unsigned flags)
{
    NEXT(memfd_create);
    return fails("memfd_create") ? -1 : next(name, flags);
}

int ftruncate64(int fd, off64_t size)
{
    NEXT(ftruncate64);
    return fails("ftruncate") ? -1 : next(fd, size);
}

int posix_fallocate64(int fd, off64_t from, off64_t size)
{
    NEXT(posix_fallocate64);
    return fails("posix_fallocate") ? errno : next(fd, from, size);
}

int eventfd(unsigned count, int flags)
{
    NEXT(eventfd);
    return flags & EFD_CLOEXEC && fails("eventfd") ? -1 : next(count, flags);
}

void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t from)
{
    NEXT(mmap64);
    if (flags & MAP_SHARED && fd >= 0 && fails("mmap"))
        return MAP_FAILED;
    return next(at, size, protection, flags, fd, from);
}

ssize_t read(int fd, void *buffer, size_t size)
{
    NEXT(read);
    if (!is_pipe(fd))
        return next(fd, buffer, size);
    return fails("read") ? -1 : next(fd, buffer, cut(size));
}

ssize_t write(int fd, const void *buffer, size_t size)
{
    NEXT(write);
    if (fd <= 2 || !is_pipe(fd))
        return next(fd, buffer, size);
    return fails("write") ? -1 : next(fd, buffer, cut(size));
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    NEXT(writev);
    if (fails("writev"))
        return -1;
    for (int i = 0; longest && i < count; i++)
        if (parts[i].iov_len)
            return write(fd, parts[i].iov_base, cut(parts[i].iov_len));
    return next(fd, parts, count);
}

int epoll_ctl(int poller, int operation, int fd, struct epoll_event *event)
{
    NEXT(epoll_ctl);
    return operation == EPOLL_CTL_ADD && fails("epoll_ctl") ? -1 : next(poller, operation, fd, event);
}

int pipe2(int ends[2], int flags)
{
    NEXT(pipe2);
    return fails("pipe2") ? -1 : next(ends, flags);
}

int mkfifoat(int directory, const char *path, mode_t mode)
{
    NEXT(mkfifoat);
    return fails("mkfifoat") ? -1 : next(directory, path, mode);
}

int renameat(int from, const char *old, int to, const char *new)
{
    NEXT(renameat);
    return fails("renameat") ? -1 : next(from, old, to, new);
}

int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const argv[], char *const envp[])
{
    NEXT(posix_spawnp);
    return fails("posix_spawnp") ? errno : next(pid, file, actions, attributes, argv, envp);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open64(const char *path, int flags, ...)
{
    MODE(flags)
    NEXT(open64);
    return fails("open") ? -1 : next(path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...)
{
    MODE(flags)
    NEXT(openat64);
    return fails("openat") ? -1 : next(directory, path, flags, mode);
}

int fcntl64(int fd, int command, ...)
{
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    NEXT(fcntl64);
    if (command == F_DUPFD_CLOEXEC && fails("dup"))
        return -1;
    if (command == F_OFD_SETLK && ((struct flock *)argument)->l_type != F_UNLCK && fails("lock"))
        return -1;
    return next(fd, command, argument);
}
