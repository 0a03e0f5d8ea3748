// Just enough of Arduino to run the sketch as a process on a terminal: argv[1] is the terminal.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#define constrain(x, low, high) ((x) < (low) ? (low) : (x) > (high) ? (high) : (x))

struct Port {
  int file = -1;
  void begin(long) {}
  int available() {
    pollfd ready{file, POLLIN, 0};
    poll(&ready, 1, 50);
    return ready.revents & POLLIN;
  }
  int read() {
    char byte = 0;
    if (::read(file, &byte, 1) != 1) exit(0);
    return byte;
  }
  void print(const char *text) { if (write(file, text, strlen(text)) < 0) exit(0); }
  void print(char byte) { if (write(file, &byte, 1) < 0) exit(0); }
} Serial;

void setup();
void loop();

int main(int, char **words) {
  Serial.file = atoi(words[1]);
  setup();
  for (;;) loop();
}
