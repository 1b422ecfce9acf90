/* What made crash and crash.core.zst, in /srv/demo, with core_pattern `core` and an empty environment:
 * gcc -O1 -fno-optimize-sibling-calls -fno-inline -fno-stack-protector -static -nostdlib -no-pie -fomit-frame-pointer \
 *     -Wl,--build-id=sha1 -Wl,-z,noseparate-code -o crash crash.c && (ulimit -c unlimited; env -i ./crash --demo)
 */
static int nothing(volatile int *where) { *where = 7; return *where; }
static int cart_total(int items) { volatile int sum = items; return sum + nothing((int *) 0x18); }
static int checkout(int items) { volatile int more[32]; more[3] = items; return more[3] + cart_total(items); }
void _start(void) { checkout(3); for (;;) ; }
