package org.edgehadanorm.demo;

import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import android.graphics.Canvas;
import android.graphics.Matrix;
import android.graphics.Paint;
import java.io.IOException;
import java.io.InputStream;

import org.edgehadanorm.core.Picture;

/** Reads a picture file that a person picked, whatever its size, with little memory. */
final class PickedPicture {
    private static final String PROBLEM = "The picture cannot be read: pick a JPEG or PNG that is on this device";

    private PickedPicture() {
    }

    /**
     * The picture, cut to a size around its centre. background: colour of what is transparent. Throws IOException where
     * the file is no picture or cannot be opened.
     */
    static Picture read(Session.Source source, int width, int height, int background) throws IOException {
        try {
            return cut(source, width, height, background);
        } catch (IOException | RuntimeException error) {  // a provider may fail in any way
            throw new IOException(PROBLEM, error);
        }
    }

    private static Picture cut(Session.Source source, int width, int height, int background) throws IOException {
        BitmapFactory.Options options = new BitmapFactory.Options();
        options.inJustDecodeBounds = true;
        decode(source, options);
        Cut cut = new Cut(orientation(source), width, height);
        options.inSampleSize = cut.sample(options.outWidth, options.outHeight);
        options.inJustDecodeBounds = false;
        Bitmap read = decode(source, options);
        if (read == null) {
            throw new IOException(PROBLEM);
        }
        Matrix matrix = new Matrix();
        matrix.setValues(cut.matrix(read.getWidth(), read.getHeight()));
        Bitmap made = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888);
        Canvas canvas = new Canvas(made);
        canvas.drawColor(background);
        canvas.drawBitmap(read, matrix, new Paint(Paint.FILTER_BITMAP_FLAG));
        read.recycle();
        return Bitmaps.picture(made);
    }

    private static Bitmap decode(Session.Source source, BitmapFactory.Options options) throws IOException {
        try (InputStream in = source.open()) {
            return BitmapFactory.decodeStream(in, null, options);
        }
    }

    private static int orientation(Session.Source source) throws IOException {
        try (InputStream in = source.open()) {
            return Api.orientation(in);
        }
    }
}
