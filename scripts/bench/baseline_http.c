// The baseline behind a socket, for one request at a time. A GET runs PROGRAM with the last
// argument `status`, a POST with `on`; /health runs nothing. No key, no deadline.
//
// Usage: baseline_http PORT PROGRAM ARGUMENT...
// The server replaces the last ARGUMENT. PROGRAM inherits the environment.
#include "once.h"
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void serve(int client, char **command, char **last) {
    char request[4096], body[1024] = "healthy", reply[2048];
    ssize_t got = read(client, request, sizeof request), length = strlen(body);
    if (got <= 0) return;
    if (strncmp(request, "GET /health ", 12)) {
        *last = strncmp(request, "GET ", 4) ? "on" : "status";
        length = run_once(command, body, sizeof body);
    }
    int head = snprintf(reply, sizeof reply, "HTTP/1.1 %s\r\nContent-Length: %zd\r\nConnection: close\r\n\r\n",
                        length < 0 ? "500 Internal Server Error" : "200 OK", length < 0 ? 0 : length);
    if (length > 0) memcpy(reply + head, body, length);
    // The reply fits into an empty socket buffer. The client closes its side after the reply.
    if (write(client, reply, head + (length > 0 ? length : 0)) < 0) return;
    shutdown(client, SHUT_WR);
    while (read(client, request, sizeof request) > 0) {}
}

int main(int argc, char **argv) {
    static const int yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (argc < 4) return 2;
    address.sin_port = htons(atoi(argv[1]));
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 128)) return 1;
    for (;;) {
        int client = accept4(listener, 0, 0, SOCK_CLOEXEC);
        if (client < 0) continue;
        serve(client, argv + 2, argv + argc - 1);
        close(client);
    }
}
