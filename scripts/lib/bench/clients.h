// What the load and the floor share: clients that each do the same again and again
// until the time is over, and what they found.
//
// Prints one line: good tries, failed ones, seconds, and of the good ones the median,
// the 99th percentile and the worst, in microseconds.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST_CLIENTS = 64, MOST_TRIES = 1 << 20 };

static double seconds, pause_after;
static _Atomic unsigned good, failed;
static double took[MOST_TRIES];

static int try_once(void); // true if it did what it should

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void *client(void *until) {
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
    double median = kept ? took[kept / 2] : 0, late = kept ? took[kept * 99 / 100] : 0, worst = kept ? took[kept - 1] : 0;
    printf("%u %u %.6f %.1f %.1f %.1f\n", good, failed, all, median * 1e6, late * 1e6, worst * 1e6);
    return 0;
}
