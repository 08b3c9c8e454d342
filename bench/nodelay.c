/* Preloaded into a server that leaves Nagle's algorithm on (rumqttd): accepted connections inherit
 * TCP_NODELAY from the listening socket. */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int listen(int fd, int backlog) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return syscall(SYS_listen, fd, backlog);
}
