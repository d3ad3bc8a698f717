package org.edgehadanorm.core;

/** An opaque picture of 8 bits a colour. */
public final strictfp class Picture {
    /** Of colour. */
    static final int CHANNELS = 3;
    private static final int OPAQUE = 0xFF000000;

    private final int width;
    private final int height;
    private final int[] argb;

    /** argb: 0xAARRGGBB of every pixel, row by row; kept, not copied. */
    public Picture(int width, int height, int[] argb) {
        if (width < 1 || height < 1 || argb.length != width * height) {
            throw new IllegalArgumentException(argb.length + " pixels for a picture of " + width + " x " + height);
        }
        this.width = width;
        this.height = height;
        this.argb = argb;
    }

    /**
     * The picture of values [channels, height, width] in about [-1, 1], three channels of red, green and blue or one of
     * grey, each as min(max((x + 1) * 127.5, 0), 255) rounded half to even.
     */
    public static Picture of(float[] chw, int channels, int height, int width) {
        if (channels != 1 && channels != 3 || chw.length != channels * height * width) {
            throw new IllegalArgumentException(
                    chw.length + " values for a picture of " + channels + " x " + height + " x " + width);
        }
        int plane = height * width;
        int[] argb = new int[plane];
        for (int pixel = 0; pixel < plane; pixel++) {
            int red = level(chw[pixel]);
            int green = channels == 1 ? red : level(chw[plane + pixel]);
            int blue = channels == 1 ? red : level(chw[2 * plane + pixel]);
            argb[pixel] = OPAQUE | red << 16 | green << 8 | blue;
        }
        return new Picture(width, height, argb);
    }

    public int width() {
        return width;
    }

    public int height() {
        return height;
    }

    /** 0xFFRRGGBB of every pixel, row by row. */
    public int[] argb() {
        return argb;
    }

    /** Values [3, height, width] in [-1, 1] of red, green and blue: pixel / 127.5 - 1 in float32. */
    float[] values() {
        float[] chw = new float[CHANNELS * argb.length];
        for (int i = 0; i < chw.length; i++) {
            int level = argb[i % argb.length] >> 8 * (CHANNELS - 1 - i / argb.length) & 0xFF;
            float scaled = level / 127.5f;
            chw[i] = scaled - 1f;
        }
        return chw;
    }

    /** Whether a pixel is nearer to white than to black, by the luma of ITU-R 601-2 as Pillow rounds it. */
    boolean isLight(int x, int y) {
        int pixel = argb[y * width + x];
        int luma = (pixel >> 16 & 0xFF) * 19595 + (pixel >> 8 & 0xFF) * 38470 + (pixel & 0xFF) * 7471 + 0x8000 >> 16;
        return luma >= 128;
    }

    /**
     * Peak signal to noise ratio to another picture in dB, over red, green and blue; infinite where they are equal.
     * Throws IllegalArgumentException where it has another size.
     */
    public double psnr(Picture other) {
        if (width != other.width || height != other.height) {
            throw new IllegalArgumentException(other.width + " x " + other.height + " pixels compared to " + width
                    + " x " + height);
        }
        long squares = 0;
        for (int pixel = 0; pixel < argb.length; pixel++) {
            for (int shift = 0; shift < 24; shift += 8) {
                long error = (argb[pixel] >> shift & 0xFF) - (other.argb[pixel] >> shift & 0xFF);
                squares += error * error;
            }
        }
        if (squares == 0) {
            return Double.POSITIVE_INFINITY;
        }
        return 10 * Math.log10(255.0 * 255.0 / ((double) squares / (3L * argb.length)));
    }

    /** What is no number is black. */
    private static int level(float value) {
        float scaled = (value + 1f) * 127.5f;
        return (int) Math.rint(Math.min(Math.max(scaled, 0f), 255f));
    }
}
