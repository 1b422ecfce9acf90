/* A crash through functions that are known, several ways: in a function, in a signal's handler, through a pointer to
 * nothing. tests/cli/stack.rs builds and runs it. */
#include <signal.h>
#include <stdlib.h>

int deepest(volatile int *where) { *where = 7; return *where; }

static void on_signal(int number) { (void) number; abort(); }

int middle(int way) {
    volatile int local[32];
    int (*volatile nowhere)(int) = 0;
    if (way == 2) signal(SIGSEGV, on_signal);
    if (way == 3) return nowhere(way) + 1;
    local[way] = deepest((int *) 0x18);
    return local[way] + 1;
}

int outer(int way) { volatile int again = way; return middle(again) + again; }

int main(int count, char **words) {
    (void) words;
    return outer(count);
}
