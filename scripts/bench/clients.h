// Shared by load.c and baseline.c: each client is a thread that repeats one try until the
// time is over.
//
// Prints one line: the number of successful tries, of failed tries, the seconds; then the
// median, the 99th percentile and the maximum of the successful tries in microseconds.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST_CLIENTS = 64, MOST_TRIES = 1 << 20 };

static double seconds, pause_after;
static _Atomic unsigned good, failed;
static double took[MOST_TRIES];
static _Atomic unsigned begun_clients;
static _Thread_local unsigned number; // of this client, from 0

static int try_once(void); // true if the result is right

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void *client(void *until) {
    number = begun_clients++;
    while (now() < *(double *)until) {
        double begun = now();
        if (try_once()) {
            unsigned at = good++;
            if (at < MOST_TRIES) took[at] = now() - begun;
        } else {
            failed++;
        }
        if (pause_after > 0) nanosleep(&(struct timespec){0, pause_after * 1e9}, 0);
    }
    return 0;
}

static int ascending(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static int run_clients(int clients) {
    pthread_t threads[MOST_CLIENTS];
    double begun = now(), until = begun + seconds;
    if (clients < 1 || clients > MOST_CLIENTS) return 2;
    for (int i = 0; i < clients; i++)
        if (pthread_create(&threads[i], 0, client, &until)) return 2;
    for (int i = 0; i < clients; i++) pthread_join(threads[i], 0);
    double all = now() - begun;
    unsigned kept = good < MOST_TRIES ? good : MOST_TRIES;
    qsort(took, kept, sizeof *took, ascending);
    double p50 = kept ? took[kept / 2] : 0, p99 = kept ? took[kept * 99 / 100] : 0;
    double worst = kept ? took[kept - 1] : 0;
    printf("%u %u %.6f %.1f %.1f %.1f\n", good, failed, all, p50 * 1e6, p99 * 1e6, worst * 1e6);
    return 0;
}
