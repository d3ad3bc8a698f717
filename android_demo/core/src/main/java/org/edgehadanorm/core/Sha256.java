package org.edgehadanorm.core;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;

/** SHA-256 of files, as 64 lower-case hex digits. */
final class Sha256 {
    private static final int CHUNK = 1 << 20;

    private Sha256() {
    }

    /** progress: told of the bytes of this file read so far. */
    static String of(File file, Progress progress) throws IOException {
        MessageDigest digest = digest();
        byte[] chunk = new byte[CHUNK];
        long done = 0;
        try (InputStream stream = new FileInputStream(file)) {
            for (int count = stream.read(chunk); count >= 0; count = stream.read(chunk)) {
                digest.update(chunk, 0, count);
                done += count;
                progress.at(done, file.length());
            }
        }
        StringBuilder hex = new StringBuilder(64);
        for (byte value : digest.digest()) {
            hex.append(Character.forDigit(value >> 4 & 15, 16)).append(Character.forDigit(value & 15, 16));
        }
        return hex.toString();
    }

    private static MessageDigest digest() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException(error);  // every Java has it
        }
    }
}
